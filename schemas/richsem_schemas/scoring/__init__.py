"""Boxes scored against annotations. What it stands on, hotcoco, is in the extras of both programs, not in the base."""
