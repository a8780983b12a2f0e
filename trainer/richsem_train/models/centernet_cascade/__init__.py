"""A two-stage detector: CenterNet proposes regions, a cascade of three stages names and refines them."""
