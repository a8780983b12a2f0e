"""A training run: assembled from its config, stepped, logged, resumed."""
