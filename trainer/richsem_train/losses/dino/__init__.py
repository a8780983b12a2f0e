"""The losses of DINO."""
