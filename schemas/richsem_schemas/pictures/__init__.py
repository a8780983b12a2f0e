"""Pictures: checked before they are decoded, decoded within limits, resized."""
