"""Groups out of pairs, so that no group is a chain whose ends have nothing in common."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components


def groups_of_pairs(first: np.ndarray, second: np.ndarray, count: int, weight: np.ndarray | None = None) -> np.ndarray:
    """The group of each row, −1 for those that are in none; groups count from 0 in the order of their first rows.

    Connected rows are a group if one of them, the centre, is paired with all others. Else the row with most pairs (of
    equal ones that with the largest weights) takes those that it is paired with, and the rest is looked at again.

    Args:
        first, second: (P,) rows of pairs, each pair once.
        count: of rows.
        weight: (P,) of pairs, positive and below 1; it decides between rows of equally many pairs.

    >>> groups_of_pairs(np.array([0, 1, 2, 5]), np.array([1, 2, 3, 6]), 8).tolist()
    [0, 0, 0, -1, -1, 1, 1, -1]
    """
    value = np.ones(len(first)) if weight is None else 1 + weight / max(1, 2 * len(first))
    ends = np.concatenate([first, second]), np.concatenate([second, first])
    linked, names = np.unique(ends[0]), np.full(count, -1, np.int64)
    names[linked] = np.arange(len(linked))
    graph = csr_matrix((np.concatenate([value, value]), (names[ends[0]], names[ends[1]])), (len(linked), len(linked)))
    found = np.full(count, -1, np.int64)
    found[linked] = _stars(graph)
    return _in_order(found)


def _stars(graph: csr_matrix) -> np.ndarray:
    """The star of each row of a symmetric graph, −1 for those that are left over."""
    pieces, piece = connected_components(graph, directed=False)
    sizes = np.bincount(piece, minlength=pieces)
    degree = np.diff(graph.indptr)
    most = np.zeros(pieces, np.int64)
    np.maximum.at(most, piece, degree)
    star = piece.astype(np.int64)
    order = np.argsort(piece, kind="stable")
    ends = np.cumsum(sizes)
    named = pieces
    for chain in (most < sizes - 1).nonzero()[0].tolist():
        members = order[ends[chain] - sizes[chain] : ends[chain]]
        star[members] = -1
        named = _split(graph[members][:, members].tocsr(), members, star, named)
    return star


def _split(graph: csr_matrix, members: np.ndarray, star: np.ndarray, named: int) -> int:
    """Gives members of a chain their stars; the next free name."""
    free = np.ones(len(members), bool)
    strength = np.asarray(graph.sum(axis=1)).ravel()
    while True:
        centre = int(np.argmax(np.where(free, strength, 0)))
        if not free[centre] or strength[centre] < 1:
            return named
        begin, end = graph.indptr[centre], graph.indptr[centre + 1]
        around = graph.indices[begin:end]
        taken = np.append(around[free[around]], centre)
        free[taken] = False
        star[members[taken]] = named
        named += 1
        for row in taken.tolist():  # what they are paired with loses that
            begin, end = graph.indptr[row], graph.indptr[row + 1]
            strength[graph.indices[begin:end]] -= graph.data[begin:end]


def _in_order(found: np.ndarray) -> np.ndarray:
    """The same groups, counted from 0 in the order of their first rows; those of a single row are none."""
    named = found >= 0
    names, first, group, sizes = np.unique(found[named], return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)
    order = order[sizes[order] > 1]
    number = np.full(len(names), -1, np.int64)
    number[order] = np.arange(len(order))
    result = np.full(len(found), -1, np.int64)
    result[named] = number[group]
    return result
