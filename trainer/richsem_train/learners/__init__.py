"""Detectors that learn: each with its losses, as one module."""
