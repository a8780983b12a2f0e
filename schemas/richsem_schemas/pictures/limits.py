"""How large a picture may be, for those that need not decode one."""

MAX_PICTURE_SIDE = 2**16
"""Longest side of a picture that is decoded, in pixels: PIL takes a row of raw pixels in pieces and begins anew with
each, so that one row of all pixels would take minutes."""
