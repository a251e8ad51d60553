"""Which terms of a latent's examples an explanation names.

Flow: `Chooser.choose` takes, one by one, the terms that tell the examples from the corpus best together; then those
that tell further firing tokens, for a sentence may hold several words of a topic; then, if the words look like a
topic's, those that a single example holds. A term that chance may have found is never taken for itself.
"""

import numpy as np

from monosem.interpret.candidates import ABOUT, Bools, Candidates, Floats, Weights
from monosem.interpret.ngrams import Ints, Postings

BY_CHANCE = 1.0  # terms of a place that may be as frequent as one that is taken, if chance alone found them
LEAST_GAIN = 1.0  # examples' worth of Youden's J that a term adds
LEAST_TOLD = 0.25  # examples' worth of firing tokens that a further term tells
ALIKE = 0.5  # of the least lift of the terms that tell sentences: a further term's, of few examples, varies so much
NEAR_BEST = 0.9  # of the best gain: terms that gain this much are told apart by kind and z


class Chooser:
    """Chooses against one corpus.

    Args:
        by_term: sentences of the index that hold each term.
        in_corpus: [S] which of these are the corpus.
    """

    def __init__(self, by_term: Postings, in_corpus: Bools) -> None:
        self._by_term, self._in_corpus = by_term, in_corpus
        self._size = max(int(in_corpus.sum()), 1)

    def choose(self, candidates: Candidates, weights: Weights, is_word: Bools, most: int) -> Ints:
        """Numbers of up to `most` candidates, by kind, those of most examples first.

        Args:
            is_word: [C] which candidates are single words.
        """
        likely = alone(weights)
        chosen = self._tell_sentences(candidates, weights, np.flatnonzero(likely), most)
        for kind in range(ABOUT):
            mine = [i for i in chosen if candidates.kind[i] == kind]
            if mine:
                fresh = ~np.isin(candidates.term, candidates.term[chosen])
                alike = fresh & (candidates.kind == kind) & (weights.lift >= ALIKE * weights.lift[mine].min())
                chosen += _tell_tokens(candidates, weights, np.flatnonzero(alike & likely), chosen, most - len(chosen))
                once = np.flatnonzero(alike & is_word & (weights.count == 1))
                chosen += _found_once(candidates, weights, once, chosen, kind)[: most - len(chosen)]
        chosen = _without_idle(candidates, chosen)
        return np.array(sorted(chosen, key=lambda i: (candidates.kind[i], -weights.count[i], -weights.z[i], i)), int)

    def _tell_sentences(self, candidates: Candidates, weights: Weights, left: Ints, most: int) -> list[int]:
        """Greedily, the terms that tell the examples from the corpus best together (largest Youden's J).

        Of terms that gain nearly as much as the best, one at the firing token is told first, then the most
        over-represented: so "United Nations" goes before "Nations".
        """
        size = candidates.found.shape[1]
        covered, silent = np.zeros(size, dtype=bool), self._in_corpus.copy()
        chosen: list[int] = []
        while len(left) and len(chosen) < most:
            gains = self._gains(candidates.term[left], candidates.found[left] & ~covered, silent)
            if gains.max() <= LEAST_GAIN / size:
                break
            near = left[gains >= NEAR_BEST * gains.max()]
            best = min(near.tolist(), key=lambda i: (candidates.kind[i], -weights.z[i], candidates.term[i]))
            chosen.append(best)
            covered |= candidates.found[best]
            silent[self._by_term.of(int(candidates.term[best]))] = False
            left = left[candidates.term[left] != candidates.term[best]]
        return chosen

    def _gains(self, terms: Ints, fresh: Bools, silent: Bools) -> Floats:
        """What each term adds to Youden's J; -1 for one whose new examples alone show that it is far from the best.

        Args:
            fresh: [terms, N] the examples that each is the first to hold.
            silent: [S] sentences of the corpus that hold no chosen term.
        """
        reach = fresh.sum(1) / fresh.shape[1]
        gains = np.full(len(terms), -1.0)
        best = 0.0
        for i in np.argsort(-reach, kind="stable"):
            if reach[i] < NEAR_BEST * best or reach[i] <= LEAST_GAIN / fresh.shape[1]:
                break
            gains[i] = reach[i] - np.count_nonzero(silent[self._by_term.of(int(terms[i]))]) / self._size
            best = max(best, gains[i])
        return gains


def alone(weights: Weights) -> Bools:
    """[C] the candidates that are over-represented, each for itself."""
    return (weights.count > 1) & (weights.lift > 1) & (weights.by_chance <= BY_CHANCE)


def _untold(candidates: Candidates, chosen: list[int]) -> Bools:
    """[T] the firing tokens that no chosen term points to."""
    pointing = [i for i in chosen if candidates.kind[i] != ABOUT]
    return ~np.any(candidates.tells[pointing], axis=0, keepdims=True)[0]


def _tell_tokens(candidates: Candidates, weights: Weights, left: Ints, chosen: list[int], most: int) -> list[int]:
    """Greedily, terms that point to firing tokens that are not told yet; an example's tokens weigh 1 together."""
    example = candidates.firing.example
    weight = (1 / np.bincount(example))[example]
    untold = _untold(candidates, chosen)
    further: list[int] = []
    while len(left) and len(further) < most:
        told = (candidates.tells[left] & untold) @ weight
        if told.max() <= LEAST_TOLD:
            break
        near = left[told >= NEAR_BEST * told.max()]
        best = min(near.tolist(), key=lambda i: (-weights.z[i], candidates.term[i]))
        further.append(best)
        untold &= ~candidates.tells[best]
    return further


def _found_once(candidates: Candidates, weights: Weights, once: Ints, chosen: list[int], kind: int) -> list[int]:
    """Words that one example holds, if they are likely to be the topic's; the most telling first.

    Nothing tells such a word from chance by itself. But of the words of a topic that are found, about as many are found
    once as are found more often (Zipf's law), and no more: what chance brings comes on top, one an example.
    """
    once = once[(candidates.tells[once] & _untold(candidates, chosen)).any(1)]
    if len(once) > sum(candidates.kind[i] == kind for i in chosen):
        return []
    return sorted(once.tolist(), key=lambda i: (-weights.z[i], candidates.term[i]))


def _without_idle(candidates: Candidates, chosen: list[int]) -> list[int]:
    """The chosen ones but those that another says as much as: "the only" where "only" is told too."""
    kept = list(chosen)
    for i in sorted(chosen, key=lambda i: (candidates.found[i].sum(), candidates.term[i])):
        others = [j for j in kept if j != i and candidates.kind[j] == candidates.kind[i]]
        says_no_more = ~(candidates.found[i] & ~candidates.found[others]).any(1)
        points_no_further = ~(candidates.tells[i] & ~candidates.tells[others]).any(1)
        if (says_no_more & points_no_further).any():
            kept.remove(i)
    return kept
