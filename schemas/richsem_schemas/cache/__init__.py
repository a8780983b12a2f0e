"""A cache: its folder, its records, its views and its shards, as they lie on disk."""
