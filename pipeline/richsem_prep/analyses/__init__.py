"""The paper's analyses, of annotations and of caches."""
