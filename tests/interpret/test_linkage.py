"""Clusters in sparse graphs against scipy's dense average linkage."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from monosem.interpret.linkage import ALONE, average_linkage


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("least", [0.05, 0.2])
def test_equals_dense_average_linkage(seed: int, least: float):
    rng = np.random.default_rng(seed)
    n = 60
    similarity = np.triu(rng.random((n, n)) * (rng.random((n, n)) < 0.15), 1)
    first, second = np.nonzero(similarity)
    found = average_linkage(n, first, second, similarity[first, second], least)
    distance = squareform(1 - similarity - similarity.T - np.eye(n), checks=False)
    expected = fcluster(linkage(distance, "average"), 1 - least, "distance")
    sizes = np.bincount(expected)[expected]
    assert (found == ALONE).tolist() == (sizes == 1).tolist()
    inside = found != ALONE
    assert (found[inside, None] == found[inside]).tolist() == (expected[inside, None] == expected[inside]).tolist()
    assert (np.diff(np.bincount(found[inside])) <= 0).all(), "the largest comes first"


def test_a_chain_is_no_cluster():
    chain = np.arange(9)
    found = average_linkage(10, chain, chain + 1, np.ones(9), 0.5)
    assert np.bincount(found[found >= 0]).max() <= 3
    assert average_linkage(3, chain[:0], chain[:0], np.ones(0), 0.5).tolist() == [ALONE] * 3
