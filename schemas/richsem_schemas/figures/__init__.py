"""The look of figures, and letters for them. matplotlib and the fonts are in both programs' extras, not in the base."""
