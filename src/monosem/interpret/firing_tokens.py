"""The tokens of a latent's examples at which it fires strongly. Knows no words and no corpus."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monosem.interpret.ngrams import Ints, TermIndex

STRONG = 0.5  # of a sentence's highest value: tokens that fire at least so much count as firing


class Example(NamedTuple):
    """A sentence that a latent fires in."""

    sentence: int
    """Number in the `TermIndex`."""
    positions: Sequence[int]
    """Tokens where it fires."""
    values: Sequence[float]
    """Its value at each."""


class Firing(NamedTuple):
    """T tokens of N examples."""

    sentences: Ints
    """[N] number of each example in the index."""
    example: Ints
    """[T] number of each token's example, 0 to N - 1."""
    token: Ints
    """[T] number of each token in the index."""
    position: Ints
    """[T] number of each token in its sentence."""
    length: Ints
    """[T] tokens of its sentence."""

    @classmethod
    def read(cls, index: TermIndex, examples: Sequence[Example]) -> "Firing":
        """The strongly firing tokens of at least one example."""
        lengths = np.array([len(one.positions) for one in examples])
        example = np.repeat(np.arange(len(examples)), lengths)
        value = np.concatenate([one.values for one in examples])
        highest = np.maximum.reduceat(value, np.cumsum(lengths) - lengths)
        strong = value >= STRONG * highest[example]
        sentences = np.array([one.sentence for one in examples], dtype=np.int64)
        example = example[strong]
        position = np.concatenate([one.positions for one in examples]).astype(np.int64)[strong]
        first, stop = index.token_offsets[sentences[example]], index.token_offsets[sentences[example] + 1]
        return cls(sentences, example, first + position, position, stop - first)

    def of(self, chosen: NDArray[np.bool_]) -> "Firing":
        """Those of some examples `[N]`, which are numbered anew."""
        kept = chosen[self.example]
        example = (np.cumsum(chosen) - 1)[self.example[kept]]
        return Firing(self.sentences[chosen], example, self.token[kept], self.position[kept], self.length[kept])
