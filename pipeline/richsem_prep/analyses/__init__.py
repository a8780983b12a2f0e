"""The paper's analyses of what the teacher says of annotated boxes, from a cache alone: no teacher, no pictures."""
