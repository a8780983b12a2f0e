"""From annotations and caches to batches, in an order that is a function of the step."""
