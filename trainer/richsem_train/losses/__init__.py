"""The losses of the detector."""
