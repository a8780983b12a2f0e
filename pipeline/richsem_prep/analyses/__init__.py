"""The paper's analyses, of annotations and of caches: no teacher, no pictures."""
