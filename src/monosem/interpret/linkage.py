"""Clusters in a sparse graph of similarities, by average linkage.

The two clusters with the largest mean similarity are joined, again and again, until none is left above a threshold. The
mean is over all pairs of members; pairs that the graph does not hold count as 0, so that a chain of neighbours is no
cluster. This is UPGMA (Sokal and Michener 1958) on a sparse matrix; time and memory grow with the edges. Knows nothing
of what is compared.
"""

import heapq

import numpy as np
from numpy.typing import NDArray

ALONE = -1


def average_linkage(
    n: int, first: NDArray[np.integer], second: NDArray[np.integer], similarity: NDArray[np.floating], least: float
) -> NDArray[np.int32]:
    """Number of each node's cluster, [n]: the largest is 0, of equal ones that with the lowest member; -1: alone.

    Args:
        first, second, similarity: edges, each pair once and no node with itself; similarities above 0.
        least: mean similarity from which two clusters are joined, above 0.
    """
    joined = _Clusters(n, first, second, similarity)
    heap = [(-mean, a, b) for a in range(n) for b, mean in joined.edges[a].items() if a < b and mean >= least]
    heapq.heapify(heap)
    while heap:
        mean, a, b = heapq.heappop(heap)
        if joined.mean(a, b) == -mean:  # else one of them has been joined with another since
            for other in joined.join(a, b):
                if (now := joined.mean(a, other)) >= least:
                    heapq.heappush(heap, (-now, min(a, other), max(a, other)))
    return _numbered(n, joined.members)


class _Clusters:
    """Clusters, each named by its lowest member, and the sums of similarities between them."""

    def __init__(
        self, n: int, first: NDArray[np.integer], second: NDArray[np.integer], similarity: NDArray[np.floating]
    ) -> None:
        self.edges: list[dict[int, float]] = [{} for _ in range(n)]
        self.members = {node: [node] for node in range(n)}
        for a, b, weight in zip(first.tolist(), second.tolist(), similarity.tolist(), strict=True):
            self.edges[a][b] = self.edges[b][a] = weight

    def mean(self, a: int, b: int) -> float:
        """Mean similarity of the pairs between two clusters; 0 where one of them is no more."""
        if a not in self.members or b not in self.members:
            return 0.0
        return self.edges[a].get(b, 0.0) / (len(self.members[a]) * len(self.members[b]))

    def join(self, a: int, b: int) -> list[int]:
        """Make b, which is above a, a part of it; returns its neighbours."""
        self.members[a] += self.members.pop(b)
        del self.edges[a][b], self.edges[b][a]
        for other, weight in self.edges[b].items():
            del self.edges[other][b]
            self.edges[a][other] = self.edges[other][a] = self.edges[a].get(other, 0.0) + weight
        self.edges[b] = {}
        return list(self.edges[a])


def _numbered(n: int, members: dict[int, list[int]]) -> NDArray[np.int32]:
    found = np.full(n, ALONE, dtype=np.int32)
    clusters = sorted(
        (nodes for nodes in members.values() if len(nodes) > 1), key=lambda nodes: (-len(nodes), nodes[0])
    )
    for number, nodes in enumerate(clusters):
        found[nodes] = number
    return found
