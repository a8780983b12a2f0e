"""Does caching cost accuracy, and what does it save: what trains, compares and writes the page about it."""
