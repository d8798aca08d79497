"""Backbones as files for other programs, each checked against the one that it was made from."""
