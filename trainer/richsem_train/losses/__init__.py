"""What the detector learns from."""
