"""Draws."""


def draw(figures, path):
    pass
