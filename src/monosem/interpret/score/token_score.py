"""N2G scored on reserved sentences of a sample: token precision and recall of every latent's patterns.

The shuffled baseline tries other latents' patterns on a latent's tokens; the frequency baseline says that the latent
fires wherever the one token stands that it fires on most. Reserved sentences are taken whole, at the rate at which the
latent fires in them: nothing is enriched.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from monosem.interpret.score import measures
from monosem.interpret.score.n2g import Found, Patterns, compare
from monosem.interpret.score.places import Ints, Pattern
from monosem.interpret.score.rows import Row
from monosem.interpret.score.sample import Sample

STRONG = 0.5  # of the latent's largest value in the reserved sentences
MIN_FIRINGS = 3  # reserved tokens that a latent fires on, for a score


class TokenScore:
    """Patterns of many latents on the reserved sentences of a sample.

    Args:
        reserved: [S].
        patterns: of each latent.
        shuffles: other latents' patterns that each is compared with.
    """

    def __init__(
        self,
        sample: Sample,
        reserved: NDArray[np.bool_],
        patterns: Mapping[int, Patterns],
        shuffles: int,
        seed: int,
    ) -> None:
        self._sample, self._patterns = sample, patterns
        self.graded = sample.known & reserved[sample.of_place]
        """[T]"""
        rng = np.random.default_rng(seed)
        self._others = np.sort(rng.permutation(np.fromiter(patterns, dtype=np.int64))[: shuffles + 1])
        """One more than are needed, for a latent that is among them."""
        self._said = np.zeros((len(self._others), len(sample.places)), dtype=bool)
        for said, latent in zip(self._said, self._others.tolist(), strict=True):
            said[self.said(patterns[latent])] = True
        self._counts = self._said.sum(1)

    def said(self, patterns: Patterns) -> Ints:
        """The graded places at which patterns stand."""
        places = self._sample.places.find_keys(patterns.keys)
        return places[self.graded[places]]

    def where(self, patterns: Iterable[Pattern]) -> Ints:
        """The graded places at which single patterns stand."""
        places = self._sample.places.find(patterns)
        return places[self.graded[places]]

    def fires(self, latent: int) -> Ints:
        """The graded places at which a latent fires."""
        place = self._sample.firings(latent).place
        return place[self.graded[place]]

    def judge(self, latent: int, name: str = "n2g") -> list[Row]:
        """The rows of one latent; none where it hardly fires in reserved sentences."""
        fires = self.fires(latent)
        if len(fires) < MIN_FIRINGS:
            return []
        said = self.said(self._patterns[latent])
        own, common = compare(said, fires), compare(self._commonest(latent), fires)
        among = self._others != latent
        others = Found(self._said[:, fires].sum(1)[among], self._counts[among], np.asarray(len(fires)))
        rows = []
        for figure in ("precision", "recall", "f1"):
            mine, shuffled, plain = (getattr(found, figure) for found in (own, others, common))
            row = Row(latent, name, figure, float(mine), frequency=float(plain))
            if len(shuffled):
                row = row._replace(shuffled=float(shuffled.mean()), shuffled_p95=measures.high(shuffled))
            rows.append(row)
        return [*rows, Row(latent, name, "recall_strong", float(compare(said, self._strong(latent)).recall))]

    def _strong(self, latent: int) -> Ints:
        place, value = self._sample.firings(latent)
        inside = self.graded[place]
        return place[inside][value[inside] >= STRONG * value[inside].max()]

    def _commonest(self, latent: int) -> Ints:
        """The graded places of the token that the latent fires on most, in total, outside the reserved sentences."""
        places, (place, value) = self._sample.places, self._sample.firings(latent)
        outside = ~self.graded[place]
        if not outside.any():
            return np.zeros(0, dtype=np.int64)
        tokens, which = np.unique(places.ids[place[outside]], return_inverse=True)
        best = tokens[np.bincount(which, value[outside]).argmax()]
        return self.where([Pattern((int(best),), 0.0, 0)])
