"""Images packed into a few large files: written, checked, and what lies where in them."""
