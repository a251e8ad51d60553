"""The reserved sentences of each latent, that its explanation is graded on: `examples/test.parquet`, read by latent.

No sentence here was seen by whoever explained, whichever latent it was chosen for. Knows nothing of scores.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

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
    strength: float
    """Its largest value there; 0 where it is silent."""
    positions: Sequence[int] = ()
    """Tokens where it fires, where they were asked for."""
    values: Sequence[float] = ()


class Reserved(NamedTuple):
    """All reserved sentences of one latent, in the order of their draw."""

    latent: int
    shown: Sequence[Shown]

    def of(self, *kinds: Kind) -> list[Shown]:
        """Those of these kinds, kind after kind."""
        return [shown for kind in kinds for shown in self.shown if shown.kind == kind]


def read(folder: Path, latents: Sequence[int], *, places: bool) -> list[Reserved]:
    """The test sets of some latents, in their order; empty for one that has no sentences.

    Args:
        places: with the tokens where they fire.

    Raises:
        RunError: the file is missing or damaged.
    """
    table = tables.read_sorted(folder / tables.TEST, "latent", latents)
    found: dict[int, list[Shown]] = {latent: [] for latent in latents}
    names = ("latent", "sentence", "kind", "value", *(("positions", "values") if places else ()))
    for latent, sentence, kind, value, *where in zip(*(table[name].to_pylist() for name in names), strict=True):
        found[latent].append(Shown(sentence, kind, value if kind == "firing" else 0.0, *where))
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
