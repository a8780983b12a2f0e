"""What the two-stage detector is trained to do."""
