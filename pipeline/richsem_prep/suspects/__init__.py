"""Boxes of a cache whose labels a sure teacher contradicts: found, shown, and left out of annotations."""
