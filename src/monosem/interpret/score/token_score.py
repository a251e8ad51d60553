"""What says where latents fire, scored on reserved sentences of a sample: token precision and recall of every latent.

N2G's patterns and explanations by terms both are. The shuffled baseline tries what is said of other latents on a
latent's tokens; the frequency baseline says that the latent
fires wherever the one token stands that it fires on most. Reserved sentences are taken whole, at the rate at which the
latent fires in them: nothing is enriched.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from monosem.interpret.score import measures
from monosem.interpret.score.held_out import Text
from monosem.interpret.score.n2g import Found, Patterns, compare
from monosem.interpret.score.places import Ints, Pattern
from monosem.interpret.score.rows import Row
from monosem.interpret.score.sample import Sample
from monosem.interpret.score.term_places import TermPlaces, Terms

STRONG = 0.5  # of the latent's largest value in the reserved sentences
MIN_FIRINGS = 3  # reserved tokens that a latent fires on, for a score


def graded(sample: Sample, reserved: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[T] the tokens of reserved sentences `[S]` whose values are known."""
    return sample.known & reserved[sample.of_place]


def of_patterns(
    sample: Sample, reserved: NDArray[np.bool_], patterns: Mapping[int, Patterns], shuffles: int, seed: int
) -> "TokenScore":
    """The score `n2g` of each latent's patterns."""
    asked = graded(sample, reserved)

    def said(latent: int) -> Ints:
        places = sample.places.find_keys(patterns[latent].keys)
        return places[asked[places]]

    return TokenScore("n2g", sample, asked, said, list(patterns), shuffles, seed)


def of_terms(
    sample: Sample,
    texts: Sequence[Text],
    reserved: NDArray[np.bool_],
    explanations: Mapping[int, Terms],
    shuffles: int,
    seed: int,
) -> "TokenScore":
    """The score `lexical_tokens` of each explanation by terms that says where its latent fires.

    Args:
        texts: of the sample's sentences, in order, with their spans.
    """
    asked = graded(sample, reserved)
    places = TermPlaces(sample, texts, asked, explanations)
    return TokenScore("lexical_tokens", sample, asked, places.said, places.latents, shuffles, seed)


class TokenScore:
    """Places said of many latents, on the reserved sentences of a sample.

    Args:
        score: what the rows are called.
        graded: [T] tokens of the reserved sentences whose values are known (`graded`).
        said: the graded places at which a latent is said to fire, ascending.
        latents: of which that is said.
        shuffles: other latents that each is compared with.
    """

    def __init__(
        self,
        score: str,
        sample: Sample,
        graded: NDArray[np.bool_],
        said: Callable[[int], Ints],
        latents: Sequence[int],
        shuffles: int,
        seed: int,
    ) -> None:
        self._score, self._sample, self.graded, self._said_of = score, sample, graded, said
        self._latents = frozenset(latents)
        rng = np.random.default_rng(seed)
        self._others = np.sort(rng.permutation(np.array(latents, dtype=np.int64))[: shuffles + 1])
        """One more than are needed, for a latent that is among them."""
        self._said = np.zeros((len(self._others), len(sample.places)), dtype=bool)
        for row, latent in zip(self._said, self._others.tolist(), strict=True):
            row[said(latent)] = True
        self._counts = self._said.sum(1)

    def where(self, patterns: Iterable[Pattern]) -> Ints:
        """The graded places at which single patterns stand."""
        places = self._sample.places.find(patterns)
        return places[self.graded[places]]

    def fires(self, latent: int) -> Ints:
        """The graded places at which a latent fires."""
        place = self._sample.firings(latent).place
        return place[self.graded[place]]

    def judge(self, latent: int) -> list[Row]:
        """The rows of one latent; none where nothing is said of it, or it hardly fires in reserved sentences."""
        fires = self.fires(latent)
        if latent not in self._latents or len(fires) < MIN_FIRINGS:
            return []
        said = self._said_of(latent)
        own, common = compare(said, fires), compare(self._commonest(latent), fires)
        among = self._others != latent
        others = Found(self._said[:, fires].sum(1)[among], self._counts[among], np.asarray(len(fires)))
        rows = []
        for figure in ("precision", "recall", "f1"):
            mine, shuffled, plain = (getattr(found, figure) for found in (own, others, common))
            row = Row(latent, self._score, figure, float(mine), frequency=float(plain))
            if len(shuffled):
                row = row._replace(shuffled=float(shuffled.mean()), shuffled_p95=measures.high(shuffled))
            rows.append(row)
        return [*rows, Row(latent, self._score, "recall_strong", float(compare(said, self._strong(latent)).recall))]

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
