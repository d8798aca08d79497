"""Neighbourhoods of features."""

from glocal.neighbors.nearest import nearest_neighbors

__all__ = ["nearest_neighbors"]
