"""`richsem-train`: a DINO detector that streams the cache and learns its semantics."""
