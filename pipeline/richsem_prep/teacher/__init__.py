"""CLIP: its towers, region features, text, and the names in its prompts."""
