"""All that one pass over the codes gathers: each latent's best sentences by every aggregation, and its statistics.

Flow: `add` takes the codes of a block of whole sentences, blocks in the order of the corpus; `save` and `restore` keep
the state between two processes. Knows nothing of SAEs, shards or text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from monosem.atomic import atomic_path
from monosem.interpret.firings import Firings, aggregate, group
from monosem.interpret.ranking import Entries, Ranking


class Statistics(NamedTuple):
    """How each latent fired over the whole pass, [n] each."""

    fire_count: NDArray[np.int64]
    """Tokens it fired on."""
    sentence_count: NDArray[np.int64]
    """Sentences it fired in."""
    total: NDArray[np.float64]
    """Sum of its values."""
    max: NDArray[np.float32]
    """Largest value; 0 where it never fired."""

    @classmethod
    def zeros(cls, n: int) -> "Statistics":
        """Of n latents that have not fired yet."""
        return cls(np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.float64), np.zeros(n, np.float32))

    def add(self, firings: Firings) -> None:
        """Count a block, in place."""
        if len(firings.latent) == 0:
            return
        first = np.flatnonzero(np.diff(firings.latent, prepend=-1))
        latent = firings.latent[first]
        token = firings.offsets[first]
        self.fire_count[latent] += np.diff(token, append=len(firings.value))
        self.sentence_count[latent] += np.diff(first, append=len(firings.latent))
        self.total[latent] += np.add.reduceat(firings.value, token, dtype=np.float64)
        self.max[latent] = np.maximum(self.max[latent], np.maximum.reduceat(firings.value, token))


class Collector:
    """The examples and statistics of n latents, over a stream of codes."""

    def __init__(self, n: int, top: int, aggregations: Sequence[str]) -> None:
        self.n, self.top = n, top
        self.aggregations = tuple(aggregations)
        self.rows = 0
        self.statistics = Statistics.zeros(n)
        self._rankings = {aggregation: Ranking(n, top) for aggregation in aggregations}

    def add(
        self,
        values: NDArray[np.float32],
        indices: NDArray[np.integer],
        sentence: NDArray[np.int64],
        position: NDArray[np.int32],
    ) -> None:
        """Take the codes of whole sentences that come after all sentences so far; shapes as in `group`."""
        firings = group(values, indices, sentence, position)
        self.rows += len(values)
        self.statistics.add(firings)
        for aggregation, ranking in self._rankings.items():
            ranking.offer(firings, aggregate(firings, aggregation))

    def parts(self, aggregation: str) -> list[Entries]:
        """The best sentences so far by this aggregation, by latent, then rank, in parts of `ranking.RANGE` latents."""
        return self._rankings[aggregation].parts()

    def save(self, path: Path, shards: int) -> None:
        """Keep the state after `shards` whole shards, atomically."""
        tensors = {f"statistics.{name}": column for name, column in self.statistics._asdict().items()}
        for aggregation in self._rankings:
            for number, part in enumerate(self.parts(aggregation)):
                tensors |= {f"{aggregation}.{number}.{name}": column for name, column in part._asdict().items()}
        tensors["progress"] = np.array([shards, self.rows], dtype=np.int64)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)

    def restore(self, path: Path) -> int:
        """Take over the state that `save` wrote; returns the number of shards it has behind it."""
        tensors = load_file(path)
        self.statistics = Statistics(*(tensors[f"statistics.{name}"] for name in Statistics._fields))
        for aggregation, ranking in self._rankings.items():
            numbers = range(len(ranking.parts()))
            parts = [Entries(*(tensors[f"{aggregation}.{i}.{name}"] for name in Entries._fields)) for i in numbers]
            self._rankings[aggregation] = Ranking.restore(self.n, self.top, parts)
        shards, self.rows = (int(figure) for figure in tensors["progress"])
        return shards
