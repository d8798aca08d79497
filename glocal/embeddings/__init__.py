"""Embeddings of many images on the disk, and the nearest of them: `glocal.search` is a function, this is its home."""
