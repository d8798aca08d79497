"""Neighbourhoods of features."""

from glocal.neighbors.kmeans import kmeans
from glocal.neighbors.nearest import nearest_in_blocks, nearest_neighbors
from glocal.neighbors.positives import select_positives

__all__ = ["kmeans", "nearest_in_blocks", "nearest_neighbors", "select_positives"]
