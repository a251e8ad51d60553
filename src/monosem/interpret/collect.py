"""All that one pass over the codes gathers: what is kept of each latent's sentences, and its statistics.

Flow: `add` takes the codes of whole sentences in the order of the corpus; `save` and `restore` keep the state between
two processes; `merge` joins the collectors of two parts of the corpus, exactly. Every selection is a `Ranking`: by
strength, or by lot. Knows nothing of SAEs, shards or text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from monosem.atomic import atomic_path
from monosem.interpret.codes import Codes
from monosem.interpret.draws import is_test, lots
from monosem.interpret.firings import Firings, aggregate, group
from monosem.interpret.ranking import Entries, Ranking

SAMPLE, TEST = "sample", "test"  # the rankings by lot
QUANTUM = 2.0**-36  # unit of the sums of values
LARGEST = 2.0**26  # a larger value counts as this one in a sum
HALF = 32  # bits of the lower word of a sum


class Plan(NamedTuple):
    """What is kept for each latent."""

    top: int
    """Sentences by each aggregation."""
    aggregations: Sequence[str]
    sample: int = 0
    """Sentences drawn evenly from all that it fires in, outside of the test set."""
    test: int = 0
    """Sentences drawn evenly from those of the test set that it fires in."""
    test_fraction: float = 0.0
    """Share of the sentences that are the test set."""
    seed: int = 0


class Statistics(NamedTuple):
    """How each latent fired over the whole pass, [n] each; sums are exact, so that parts add up in any order."""

    fire_count: NDArray[np.int64]
    """Tokens it fired on."""
    sentence_count: NDArray[np.int64]
    """Sentences it fired in."""
    test_sentence_count: NDArray[np.int64]
    """Those of the test set."""
    high: NDArray[np.int64]
    """Sum of its values over `QUANTUM`: the words above the lowest 32 bits of each, and below the words themselves."""
    low: NDArray[np.int64]
    max: NDArray[np.float32]
    """Largest value; 0 where it never fired."""

    @classmethod
    def zeros(cls, n: int) -> "Statistics":
        """Of n latents that have not fired yet."""
        fires, sentences, tests, high, low = (np.zeros(n, np.int64) for _ in range(5))
        return cls(fires, sentences, tests, high, low, np.zeros(n, np.float32))

    @property
    def mean(self) -> NDArray[np.float64]:
        """[n] mean of the values where it fired; 0 where it never did."""
        return (self.high * 2.0**HALF + self.low) * QUANTUM / np.maximum(self.fire_count, 1)

    def add(self, firings: Firings, in_test: NDArray[np.bool_]) -> None:
        """Count a block, in place. in_test: [G] whether each group's sentence is in the test set."""
        if len(firings.latent) == 0:
            return
        first = np.flatnonzero(np.diff(firings.latent, prepend=-1))
        latent, token = firings.latent[first], firings.offsets[first]
        self.fire_count[latent] += np.diff(token, append=len(firings.value))
        self.sentence_count[latent] += np.diff(first, append=len(firings.latent))
        self.test_sentence_count[latent] += np.add.reduceat(in_test, first, dtype=np.int64)
        quanta = (np.minimum(firings.value, LARGEST) * (1 / QUANTUM)).astype(np.int64)
        self.high[latent] += np.add.reduceat(quanta >> HALF, token)
        self.low[latent] += np.add.reduceat(quanta & ((1 << HALF) - 1), token)
        self.max[latent] = np.maximum(self.max[latent], np.maximum.reduceat(firings.value, token))

    def merge(self, other: "Statistics") -> None:
        """Add what another part of the corpus counted, in place."""
        for name, mine in self._asdict().items():
            (np.maximum if name == "max" else np.add)(mine, getattr(other, name), out=mine)


class Collector:
    """The examples and statistics of n latents, over a stream of codes."""

    def __init__(self, n: int, plan: Plan) -> None:
        self.n, self.plan = n, plan
        self.rows = 0
        self.statistics = Statistics.zeros(n)
        sizes = {**dict.fromkeys(plan.aggregations, plan.top), SAMPLE: plan.sample, TEST: plan.test}
        self._rankings = {name: Ranking(n, size) for name, size in sizes.items() if size}

    def add(self, codes: Codes) -> None:
        """Take the codes of sentences that come after all sentences so far."""
        firings = group(codes)
        in_test = is_test(firings.sentence, self.plan.test_fraction, self.plan.seed)
        self.rows += codes.rows
        self.statistics.add(firings, in_test)
        lot = lots(firings.latent, firings.sentence, self.plan.seed) if {SAMPLE, TEST} & set(self._rankings) else None
        for name, ranking in self._rankings.items():
            score = aggregate(firings, name) if name in self.plan.aggregations else lot
            assert score is not None
            ranking.offer(firings, np.where(in_test == (name == TEST), score, np.float32(0)))

    def merge(self, other: "Collector") -> None:
        """Take over what a collector with the same plan kept of other sentences: as if one had seen them all."""
        assert (self.n, self.plan) == (other.n, other.plan)
        self.rows += other.rows
        self.statistics.merge(other.statistics)
        for name, ranking in self._rankings.items():
            ranking.merge(other._rankings[name])

    def parts(self, name: str) -> list[Entries]:
        """What is kept by an aggregation, as `sample` or as `test`: by latent, then rank, in parts of `ranking.RANGE`
        latents."""
        return self._rankings[name].parts() if name in self._rankings else Ranking(self.n, 0).parts()

    def save(self, path: Path, shards: int) -> None:
        """Keep the state after `shards` whole shards, atomically."""
        tensors = {f"statistics.{name}": column for name, column in self.statistics._asdict().items()}
        for ranking in self._rankings:
            for number, part in enumerate(self.parts(ranking)):
                tensors |= {f"{ranking}.{number}.{name}": column for name, column in part._asdict().items()}
        tensors["progress"] = np.array([shards, self.rows], dtype=np.int64)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)

    def restore(self, path: Path) -> int:
        """Take over the state that `save` wrote; returns the number of shards it has behind it."""
        tensors = load_file(path)
        self.statistics = Statistics(*(tensors[f"statistics.{name}"] for name in Statistics._fields))
        for name, ranking in self._rankings.items():
            numbers = range(len(ranking.parts()))
            parts = [Entries(*(tensors[f"{name}.{i}.{column}"] for column in Entries._fields)) for i in numbers]
            self._rankings[name] = Ranking.restore(self.n, ranking.top, parts)
        shards, self.rows = (int(figure) for figure in tensors["progress"])
        return shards
