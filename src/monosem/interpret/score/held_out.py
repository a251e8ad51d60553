"""The reserved sentences of each latent, that its explanation is graded on: `examples/test.parquet`, read by latent.

No sentence here was seen by whoever explained, whichever latent it was chosen for. Knows nothing of scores.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monosem.interpret import tables

Kind = Literal["firing", "silent", "hard"]


class Text(NamedTuple):
    """A sentence as the model read it."""

    number: int
    """Over the whole corpus."""
    text: str
    starts: Sequence[int]
    """First character of each token."""
    ends: Sequence[int]
    tokens: Sequence[int]
    """Vocabulary ids."""
    missing: Sequence[int]
    """Tokens whose value is not known: the store does not hold them."""


class Shown(NamedTuple):
    """A reserved sentence of one latent."""

    sentence: int
    kind: Kind
    """`firing`; `silent`, drawn at random; `hard`: silent, though it holds tokens that the latent fires on."""
    positions: Sequence[int]
    """Tokens where it fires."""
    values: Sequence[float]

    @property
    def strength(self) -> float:
        """Its largest value there; 0 where it is silent."""
        return max(self.values, default=0.0)


class Reserved(NamedTuple):
    """All reserved sentences of one latent, in the order of their draw."""

    latent: int
    shown: Sequence[Shown]

    def of(self, *kinds: Kind) -> list[Shown]:
        """Those of these kinds, kind after kind."""
        return [shown for kind in kinds for shown in self.shown if shown.kind == kind]


def read(folder: Path, latents: Sequence[int] | NDArray[np.integer]) -> list[Reserved]:
    """The test sets of some latents, in their order; empty for one that has no sentences.

    Raises:
        RunError: the file is missing or damaged.
    """
    table = tables.read_sorted(folder / tables.TEST, "latent", np.asarray(latents))
    found: dict[int, list[Shown]] = {int(latent): [] for latent in latents}
    names = ("latent", "kind", "sentence", "positions", "values")
    for latent, kind, sentence, positions, values in zip(*(table[name].to_pylist() for name in names), strict=True):
        found[latent].append(Shown(sentence, kind, positions, values))
    return [Reserved(latent, shown) for latent, shown in found.items()]


def texts(folder: Path, sentences: Iterable[int]) -> dict[int, Text]:
    """The sentences of these numbers.

    Raises:
        RunError: the file is missing or damaged.
    """
    wanted = np.unique(np.fromiter(sentences, dtype=np.int64))
    table = tables.read_sorted(folder / tables.SENTENCES, "sentence", wanted)
    columns = [table[name].to_pylist() for name in ("sentence", "text", "starts", "ends", "tokens", "missing")]
    return {row[0]: Text(*row) for row in zip(*columns, strict=True)}
