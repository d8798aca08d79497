"""Groups out of pairs: connected, but no chains."""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from glocal.curation.grouping import groups_of_pairs


def test_a_chain_is_cut_where_its_ends_have_nothing_in_common() -> None:
    chain = groups_of_pairs(np.arange(6), np.arange(1, 7), 7)
    sizes = np.bincount(chain[chain >= 0])
    assert sizes.max() <= 3  # a centre and what is beside it
    assert (chain >= 0).sum() >= 6


def test_copies_of_one_image_stay_together_though_they_are_no_pairs_themselves() -> None:
    star = groups_of_pairs(np.zeros(5, int), np.arange(1, 6), 6)
    assert star.tolist() == [0] * 6


def test_the_stronger_of_equal_centres_takes_its_neighbours() -> None:
    # 0 – 1 – 2 – 3: both 1 and 2 have two pairs
    group = groups_of_pairs(np.array([0, 1, 2]), np.array([1, 2, 3]), 4, np.array([0.5, 0.6, 0.9]))
    assert group.tolist() == [-1, 0, 0, 0]


def test_every_group_has_a_centre_and_no_two_components_share_one() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 400, (2, 350))
    first, second = np.unique(np.sort(np.stack([first, second])[:, first != second], axis=0), axis=1)
    group = groups_of_pairs(first, second, 400)
    graph = coo_matrix((np.ones(len(first)), (first, second)), (400, 400)).tocsr()
    linked = ((graph + graph.T) > 0).toarray()
    piece = connected_components(graph, directed=False)[1]
    for number in range(group.max() + 1):
        members = np.flatnonzero(group == number)
        assert len(members) > 1
        assert len(set(piece[members])) == 1
        assert linked[np.ix_(members, members)].sum(axis=1).max() == len(members) - 1
    starts = [np.flatnonzero(group == number)[0] for number in range(group.max() + 1)]
    assert starts == sorted(starts)


def test_no_pairs_make_no_groups() -> None:
    nothing = np.empty(0, np.int64)
    assert groups_of_pairs(nothing, nothing, 3).tolist() == [-1, -1, -1]
