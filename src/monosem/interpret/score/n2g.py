"""N2G from stored activations: the patterns of tokens at which a latent fires (after Foote et al., arXiv 2305.19911).

Flow: for every firing token the shortest suffix that keeps half of the activation is looked for, and in it the tokens
that can be any token; then, where no suffix does, its distance from the beginning or the end of the sentence. What the
paper finds by running the model on cut and blanked texts is here the mean activation
over all other places where the suffix stands, silent ones included: nothing is run. The patterns then say on other
sentences where the latent fires. `n2g_ablated` is the paper's own way. Left out: its augmentation, which needs a masked
language model.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monosem.interpret.score import measures
from monosem.interpret.score.places import END, NOWHERE, START, Ints, Pattern, Shape, keys_of
from monosem.interpret.score.sample import Sample

KEPT = 0.5  # of the activation, that a suffix has to keep
SHAPES: tuple[Shape, ...] = ((0,), (1,), (0, 1), (2,), (0, 2), (1, 2), (0, 1, 2))
"""Suffixes of up to three tokens, shortest first; of one length those with the most wildcards first."""
ANCHORS: tuple[Shape, ...] = (*((d,) for d in range(3, 9)), *((-d,) for d in range(1, 5)))
"""Distances from the beginning (beyond what `SHAPES` reach) and the end of the sentence: nothing else may be there. The
paper's tries begin at a start token; the end is ours, since a stored sentence has one."""
MIN_SUPPORT = 2  # firing tokens with the pattern


class Patterns(NamedTuple):
    """The patterns of one latent."""

    keys: Mapping[Shape, NDArray[np.uint64]]
    """All of them, as `Places.find_keys` takes them."""
    best: Sequence[Pattern]
    """Those with the most support, for readers."""
    count: int
    firing: int
    """Firing tokens that they were learnt from."""
    covered: int
    """Of these, how many have a pattern."""


class Found(NamedTuple):
    """How patterns do on sentences that they were not learnt from, in tokens; several latents or one."""

    hits: NDArray[np.integer]
    said: NDArray[np.integer]
    """Tokens at which a pattern stands."""
    true: NDArray[np.integer]
    """Tokens that the latent fires on."""

    @property
    def precision(self) -> measures.Floats:
        """Share of the tokens said that it fires on; 0 where nothing is said."""
        return self.hits / np.maximum(self.said, 1)

    @property
    def recall(self) -> measures.Floats:
        """Share of the tokens it fires on that were said; NaN where it fires on none."""
        return np.where(self.true > 0, self.hits / np.maximum(self.true, 1), np.nan)

    @property
    def f1(self) -> measures.Floats:
        """Their harmonic mean."""
        return measures.f1(self.hits, self.said, self.true)


class Learner:
    """Learns patterns from the stored tokens of a sample, reserved sentences left out.

    Args:
        reserved: [S].
        most: patterns of each latent that are spelled out.
    """

    def __init__(self, sample: Sample, reserved: NDArray[np.bool_], most: int = 10) -> None:
        self.sample, self.most = sample, most
        self.learns = sample.known & ~reserved[sample.of_place]
        """[T]"""
        self._numbered = {shape: self._number(shape) for shape in SHAPES}
        places = sample.places
        self._anchored: dict[Shape, NDArray[np.bool_]] = {
            (d,): (places.before(d) == (START if d > 0 else END)) & self.learns for (d,) in ANCHORS
        }
        """[T] by anchor."""
        self._anchored_count = {shape: int(there.sum()) for shape, there in self._anchored.items()}

    def learn(self, latent: int) -> Patterns:
        """The patterns of one latent."""
        firings = self.sample.firings(latent)
        inside = self.learns[firings.place]
        place, value = firings.place[inside], firings.value[inside].astype(np.float64)
        # a weak firing has to be foretold as well as a usual one, else common words would foretell it
        wanted = KEPT * np.maximum(value, value.mean() if len(value) else 0.0)
        open_ = np.ones(len(place), dtype=bool)
        keys: dict[Shape, NDArray[np.uint64]] = {}
        spelled: list[Pattern] = []
        for shape in SHAPES:
            number, count = self._numbered[shape]
            unique, group = np.unique(number[place], return_inverse=True)
            total, of = np.bincount(group, value, len(unique)), count[unique]
            others = (total[group] - value) / np.maximum(of[group] - 1, 1)
            kept = open_ & (others >= wanted) & (of[group] > 1)
            support = np.bincount(group[kept], minlength=len(unique))
            chosen = np.flatnonzero(support >= MIN_SUPPORT)
            if len(chosen):
                kept &= (support >= MIN_SUPPORT)[group]
                first = np.zeros(len(unique), dtype=np.int64)
                first[group[kept][::-1]] = place[kept][::-1]
                keys[shape] = self.sample.places.keys(shape)[first[chosen]]
                for i in chosen[np.argsort(-support[chosen], kind="stable")][: self.most].tolist():
                    spelled.append(self._spell(int(first[i]), shape, float(total[i] / of[i]), int(support[i])))
                open_ &= ~kept
        self._anchor(place, value, wanted, open_, keys, spelled)
        best = sorted(spelled, key=lambda pattern: -pattern.support)[: self.most]
        return Patterns(keys, best, sum(map(len, keys.values())), len(place), int((~open_).sum()))

    def _anchor(
        self,
        place: Ints,
        value: NDArray[np.float64],
        wanted: NDArray[np.float64],
        open_: NDArray[np.bool_],
        keys: dict[Shape, NDArray[np.uint64]],
        spelled: list[Pattern],
    ) -> None:
        """The same for the anchors, each of which is one pattern: a firing token at another distance does not count."""
        for shape in ANCHORS if open_.any() else ():
            there = np.flatnonzero(self._anchored[shape][place])
            count, total = self._anchored_count[shape], float(value[there].sum())
            others = (total - value[there]) / max(count - 1, 1)
            kept = there[open_[there] & (others >= wanted[there])]
            if len(kept) >= MIN_SUPPORT:
                anchor = START if shape[0] > 0 else END
                keys[shape] = keys_of([(anchor,)])
                tokens = (START, *[None] * shape[0]) if anchor == START else (*[None] * -shape[0], END)
                spelled.append(Pattern(tokens, total / count, len(kept)))
                open_[kept] = False

    def _number(self, shape: Shape) -> tuple[Ints, Ints]:
        """[T] number of the pattern of a shape at each place that is learnt from, and how often each pattern occurs.

        Pattern 0 is none: other places, and what reaches beyond the beginning of the sentence.
        """
        places = self.sample.places
        valid = np.flatnonzero(self.learns & (places.before(shape[-1]) != NOWHERE))
        _, inverse, count = np.unique(places.keys(shape)[valid], return_inverse=True, return_counts=True)
        number = np.zeros(len(places), dtype=np.int64)
        number[valid] = inverse + 1
        return number, np.append(0, count)

    def _spell(self, place: int, shape: Shape, strength: float, support: int) -> Pattern:
        ahead = self.sample.places
        tokens = (ahead.token_before(place, d) if d in shape else None for d in reversed(range(shape[-1] + 1)))
        return Pattern(tuple(tokens), strength, support)


def compare(said: Ints, fires: Ints) -> Found:
    """Count what was said of one latent; both are places, ascending."""
    hits = np.isin(said, fires, assume_unique=True).sum()
    return Found(np.asarray(hits), np.asarray(len(said)), np.asarray(len(fires)))
