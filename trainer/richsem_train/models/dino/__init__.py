"""DINO with a text classifier and a semantic branch."""
