"""Where patterns of tokens occur in many sentences: exact n-grams, with gaps, and from the beginning of a sentence.

Flow: a shape says which of the tokens up to a place are fixed; under each shape every place has a key, a hash of its
fixed tokens; keys are sorted once, so that all places of any number of patterns are found by bisection. This is the
reverse trie of N2G, walked for all places at once. Knows nothing of latents.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Shape = tuple[int, ...]
"""Distances of the fixed tokens from the place itself, ascending: (0,) is the token there, (1,) any token behind one
that is fixed, (0, 2) two tokens with a gap; (-1,) the end of the sentence just behind the place."""
START, NOWHERE, END = -1, -2, -3  # the beginning of the sentence, what is beyond its bounds, and its end
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Pattern(NamedTuple):
    """Tokens up to the place where a latent fires; or the end of the sentence and how far it is from there."""

    tokens: tuple[int | None, ...]
    """In the order of the text; None: any token; `START`: the sentence begins here. The latent fires at the last; if
    that is `END`, the sentence ends here, and the latent fires at the first."""
    strength: float
    """The value that is expected where it occurs."""
    support: int
    """Firing tokens that it was found from."""

    @property
    def shape(self) -> Shape:
        """Which of its tokens are fixed."""
        if self.tokens[-1] == END:
            return (1 - len(self.tokens),)
        return tuple(distance for distance, token in enumerate(reversed(self.tokens)) if token is not None)

    @property
    def fixed(self) -> tuple[int, ...]:
        """The fixed tokens, in the order of `shape`."""
        return tuple(token for token in reversed(self.tokens) if token is not None)


class Places:
    """All T tokens of S sentences.

    Args:
        ids: [T] token ids, sentence after sentence.
        offsets: [S + 1].
    """

    def __init__(self, ids: NDArray[np.integer], offsets: Ints) -> None:
        self.ids, self.offsets = ids.astype(np.int64), offsets
        self._keys: dict[Shape, NDArray[np.uint64]] = {}
        self._sorted: dict[Shape, tuple[NDArray[np.uint64], Ints]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def position(self) -> Ints:
        """[T] place of each token in its sentence."""
        return np.arange(len(self.ids)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))

    @cached_property
    def length(self) -> Ints:
        """[T] tokens of its sentence."""
        return np.repeat(np.diff(self.offsets), np.diff(self.offsets))

    def before(self, distance: int) -> Ints:
        """[T] the token that stands `distance` before each; behind it, below 0, only the sentence's end is seen.

        A language model that reads from left to right cannot know what follows.
        """
        if distance < 0:
            return np.where(self.length - self.position == -distance, END, NOWHERE)
        moved = np.roll(self.ids, distance)
        moved[self.position == distance - 1] = START
        moved[self.position < distance - 1] = NOWHERE
        return moved

    def token_before(self, place: int, distance: int) -> int:
        """`before` at one place."""
        position = self.position[place]
        return (
            int(self.ids[place - distance]) if position >= distance else START if position == distance - 1 else NOWHERE
        )

    def keys(self, shape: Shape) -> NDArray[np.uint64]:
        """[T] a key for the fixed tokens at each place: equal ones mean equal tokens."""
        if shape not in self._keys:
            self._keys[shape] = _hashed([self.before(distance) for distance in shape])
        return self._keys[shape]

    def find(self, patterns: Iterable[Pattern]) -> Ints:
        """The places where any of the patterns occurs, ascending."""
        by_shape: dict[Shape, list[tuple[int, ...]]] = {}
        for pattern in patterns:
            by_shape.setdefault(pattern.shape, []).append(pattern.fixed)
        return self.find_keys({shape: keys_of(fixed) for shape, fixed in by_shape.items()})

    def find_keys(self, keys: Mapping[Shape, NDArray[np.uint64]]) -> Ints:
        """The places that have one of the keys under its shape, ascending."""
        found = [np.zeros(0, dtype=np.int64)]
        for shape, wanted in keys.items():
            ordered, order = self._order(shape)
            first, last = np.searchsorted(ordered, wanted, "left"), np.searchsorted(ordered, wanted, "right")
            found += [order[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True) if a < b]
        return np.unique(np.concatenate(found))

    def _order(self, shape: Shape) -> tuple[NDArray[np.uint64], Ints]:
        if shape not in self._sorted:
            order = np.argsort(self.keys(shape), kind="stable")
            self._sorted[shape] = self.keys(shape)[order], order
        return self._sorted[shape]


def keys_of(fixed: Sequence[tuple[int, ...]]) -> NDArray[np.uint64]:
    """The keys of patterns of one shape, from their fixed tokens."""
    return _hashed(list(np.array(fixed, dtype=np.int64).T))


def _hashed(columns: Sequence[Ints]) -> NDArray[np.uint64]:
    """A polynomial hash, row by row."""
    key = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        key = (key ^ (key >> np.uint64(29))) * MULTIPLIER + (column - END).astype(np.uint64)
    return key
