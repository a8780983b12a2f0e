"""`richsem-prep shard`: from a dataset to the shards of a cache."""
