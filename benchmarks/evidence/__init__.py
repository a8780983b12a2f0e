"""Whether caching labels costs accuracy, and what it saves: `python -m benchmarks.evidence`."""
