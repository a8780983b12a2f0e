"""A two-stage detector: CenterNet's proposals, and a cascade of stages with a text classifier."""
