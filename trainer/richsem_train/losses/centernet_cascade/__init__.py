"""The losses of the two-stage detector."""
