"""Caches as the trainer reads them: shard by shard, in lanes, or beside the pictures of the annotations."""
