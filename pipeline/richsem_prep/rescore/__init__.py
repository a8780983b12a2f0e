"""`richsem-prep rescore`: labels for another vocabulary from stored embeddings."""
