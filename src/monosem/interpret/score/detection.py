"""Detection by terms: does an explanation made of terms tell reserved sentences in which its latent fires from others?

No judge is asked: a sentence that holds a term is said to fire. The same sentences are judged by other latents'
explanations (shuffled) and by the sentence's length (frequency: whatever fires at random fires sooner in a long
sentence). Works for any list of terms: explanations, or the tokens that a latent raises in the output.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from monosem.interpret.score import measures
from monosem.interpret.score.held_out import Reserved, Text
from monosem.interpret.score.rows import Row
from monosem.interpret.score.terms import Detector, Vocabulary

MIN_SENTENCES = 3  # of each kind, for a score
DECILES = 10


class Detection:
    """Lists of terms and the sentences that they are tried on.

    Args:
        score: what the rows are called.
        terms: of each latent that has any, its terms with their weights.
        texts: sentences of all test sets, by number.
        shuffles: other latents' lists that each is compared with.
    """

    def __init__(
        self, score: str, terms: Mapping[int, Mapping[str, float]], texts: Mapping[int, Text], shuffles: int, seed: int
    ) -> None:
        self.score, self._seed = score, seed
        self._place = {latent: i for i, latent in enumerate(terms)}
        vocabulary = Vocabulary(term for one in terms.values() for term in one)
        self._detector = Detector(vocabulary, list(terms.values()))
        self._row = {number: i for i, number in enumerate(texts)}
        self._holdings = vocabulary.holdings((text.text, text.starts, text.ends) for text in texts.values())
        self._length = np.array([len(text.tokens) for text in texts.values()])
        rng = np.random.default_rng(seed)
        self._others = np.sort(rng.permutation(len(terms))[: shuffles + 1])
        """One more than are needed, for a latent that is among them."""
        self._of_others = self._detector.evidence(self._holdings, self._others)
        """[others, S] once for all latents."""

    def judge(self, test: Reserved) -> list[Row]:
        """The rows of one latent; none where it has no terms or too few sentences."""
        firing, silent, hard = (test.of(kind) for kind in ("firing", "silent", "hard"))
        place = self._place.get(test.latent)
        if place is None or min(len(firing), len(silent)) < MIN_SENTENCES:
            return []
        shown = [*firing, *silent, *hard]
        rows = np.array([self._row[one.sentence] for one in shown])
        plain = np.arange(len(firing) + len(silent))
        own = self._detector.evidence(self._holdings[rows], np.array([place]))
        evidence = np.concatenate([own, self._of_others[:, rows][self._others != place]])
        truth = np.arange(len(shown)) < len(firing)
        found = self._rows(test.latent, evidence[:, plain], truth[plain], self._length[rows[plain]])
        if len(hard) >= MIN_SENTENCES:
            chosen = np.append(plain[: len(firing)], np.arange(len(plain), len(shown)))
            found.append(self._accuracy(test.latent, "hard", evidence[:, chosen] > 0, truth[chosen]))
        strength = np.array([one.strength for one in firing])
        return [*found, *deciles(test.latent, self.score, evidence[0, : len(firing)] > 0, strength)]

    def _rows(
        self, latent: int, evidence: NDArray[np.float32], truth: measures.Bools, length: NDArray[np.integer]
    ) -> list[Row]:
        said, longer = evidence > 0, length > np.median(length)
        accuracy = self._accuracy(latent, "balanced_accuracy", said, truth)
        hits, true = said & truth, np.asarray(truth.sum())
        f1 = measures.f1(hits.sum(1), said.sum(1), true)
        area = measures.auroc(evidence, truth)
        by_length = float(measures.f1((longer & truth).sum(), longer.sum(), true))
        return [
            accuracy._replace(frequency=float(measures.balanced_accuracy(longer, truth))),
            self._row_of(latent, "f1", f1)._replace(frequency=by_length),
            self._row_of(latent, "auroc", area)._replace(
                frequency=float(measures.auroc(length.astype(np.float64), truth)), chance=0.5
            ),
        ]

    def _accuracy(self, latent: int, figure: str, said: measures.Bools, truth: measures.Bools) -> Row:
        rng = np.random.default_rng((self._seed, latent))
        hits, rejections = int((said[0] & truth).sum()), int((~said[0] & ~truth).sum())
        interval = measures.rate_interval(hits, int(truth.sum()), rejections, int((~truth).sum()), rng)
        row = self._row_of(latent, figure, measures.balanced_accuracy(said, truth))
        return row._replace(low=interval.low, high=interval.high, chance=0.5)

    def _row_of(self, latent: int, figure: str, values: measures.Floats) -> Row:
        """The first of the values beside the others."""
        own, others = float(values[0]), values[1:]
        if not len(others):
            return Row(latent, self.score, figure, own)
        shuffled, high = float(others.mean()), measures.high(others)
        return Row(latent, self.score, figure, own, shuffled=shuffled, shuffled_p95=high)


def deciles(latent: int, score: str, found: measures.Bools, strength: NDArray[np.floating]) -> list[Row]:
    """Share found in each tenth of the firing sentences by strength: `decile_01` are the weakest."""
    ordered = found[np.argsort(strength, kind="stable")].tolist()
    cuts = [len(ordered) * tenth // DECILES for tenth in range(DECILES + 1)]
    named = ((f"decile_{i + 1:02d}", ordered[cuts[i] : cuts[i + 1]]) for i in range(DECILES))
    return [Row(latent, score, name, sum(part) / len(part)) for name, part in named if part]
