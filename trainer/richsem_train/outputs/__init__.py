"""Between detectors and their losses."""
