"""Images to learn from: what a source is, the kinds of it, and opening one by its name."""
