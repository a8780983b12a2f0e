"""`richsem-prep`: from raw pictures to a verified cache of CLIP region embeddings and soft labels."""
