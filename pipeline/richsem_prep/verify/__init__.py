"""`richsem-prep verify`: whether every byte of a cache is what was written; needs no torch."""
