"""The contract between the two programs: views, soft labels, and the cache that holds them."""
