"""Embeddings of many images on the disk, and the nearest of them."""
