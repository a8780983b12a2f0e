"""The losses of detectors, a folder each, and what they share."""
