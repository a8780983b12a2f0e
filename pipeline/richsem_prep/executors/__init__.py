"""Who works on shards: this process, or the processes of a Ray cluster."""
