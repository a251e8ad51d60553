"""The terms of a latent's examples, by where they stand, and how far each is from what the corpus would give by chance.

Flow: `Candidates.gather` finds the terms at the firing tokens, just before them, and anywhere in the sentences;
`weigh` compares how often each was found with its frequency in the corpus. Both counts may be very small: a topic has
many words, each of which few examples hold. Chooses nothing.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc

from monosem.interpret.firing_tokens import Firing
from monosem.interpret.ngrams import ORDERS, Ints, TermIndex

KINDS = ("at", "before", "about")  # preferred in this order
AT, BEFORE, ABOUT = range(3)
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Candidates(NamedTuple):
    """C terms of N examples with T firing tokens. A term that stands at several places is several candidates."""

    firing: Firing
    term: Ints
    """[C] number in the index."""
    kind: Ints
    """[C] number in `KINDS`."""
    found: Bools
    """[C, N] the examples that hold it there."""
    tells: Bools
    """[C, T] the firing tokens that it stands at or before; of a term of the whole sentence, all of them."""
    words: Ints
    """[3, N] different words of each example by kind."""
    tried: Ints
    """[3] different terms by kind, also those that are no candidates."""

    @classmethod
    def gather(cls, index: TermIndex, firing: Firing) -> "Candidates":
        """All terms found in two examples, and single words `at` or `before` a firing token in one."""
        parts = [_of_place(index, firing, kind, *place) for kind, place in enumerate(_places(index, firing))]
        term, found, tells = (np.concatenate([part[i] for part in parts]) for i in range(3))
        kind = np.repeat(np.arange(len(KINDS)), [len(part.term) for part in parts])
        words, tried = np.array([part.words for part in parts]), np.array([part.tried for part in parts])
        return cls(firing, term, kind, found, tells, words, tried)

    def of(self, chosen: Bools) -> "Candidates":
        """The same terms in some of the examples, `[N]`."""
        tokens = chosen[self.firing.example]
        found, tells = self.found[:, chosen], self.tells[:, tokens]
        return Candidates(self.firing.of(chosen), self.term, self.kind, found, tells, self.words[:, chosen], self.tried)


class _Place(NamedTuple):
    """Candidates of one kind, as `Candidates` has them."""

    term: Ints
    found: Bools
    tells: Bools
    words: Ints
    tried: int


class Weights(NamedTuple):
    """What the corpus says of C candidates."""

    count: Ints
    """[C] examples that hold each."""
    lift: Floats
    """[C] these over what the corpus would give."""
    z: Floats
    """[C] signed root of the likelihood ratio: standard deviations above what the corpus would give."""
    by_chance: Floats
    """[C] how many terms of its place would be found as often if nothing but chance found them."""


def weigh(candidates: Candidates, frequency: Ints, words: int) -> Weights:
    """Compare the candidates with a corpus.

    The likelihood ratio (Dunning 1993, "Accurate methods for the statistics of surprise and coincidence") holds where
    counts are small, and where all of a rare word's sentences are examples. `by_chance` is the Poisson probability of
    the count, given that the term was found at all, times the terms of the place.

    Args:
        frequency: [terms] sentences of the corpus that hold each term.
        words: of the corpus, each counted once a sentence.
    """
    count = candidates.found.sum(1)
    here = np.maximum(candidates.words.sum(1), 1)[candidates.kind]  # of some examples, a place may have none
    expected = here * np.maximum(frequency[candidates.term], 1) / max(words, 1)
    lift = count / expected
    ratio = count * np.log(np.maximum(lift, 1e-300)) - (count - expected)
    tried = candidates.tried[candidates.kind]
    by_chance = tried * gammainc(np.maximum(count, 1), expected) / gammainc(1, expected)
    return Weights(count, lift, np.sign(lift - 1) * np.sqrt(2 * np.maximum(ratio, 0)), by_chance)


def _places(index: TermIndex, firing: Firing) -> list[tuple[Ints, Ints, Ints]]:
    """By kind, terms with the examples and firing tokens that they belong to; tokens are -1 for whole sentences."""
    unit = index.token_unit[firing.token]
    inside = np.flatnonzero(unit >= 0)
    before = np.flatnonzero((unit >= 0) & (unit > index.unit_offsets[firing.sentences][firing.example]))
    at = np.concatenate([index.grams[:, unit[inside]].reshape(-1), index.token_piece[firing.token[inside]]])
    just_before = index.grams[: ORDERS - 1, unit[before] - 1].reshape(-1)
    lists = [index.by_sentence.of(int(sentence)) for sentence in firing.sentences]
    about, holder = np.concatenate(lists), np.repeat(np.arange(len(lists)), [len(one) for one in lists])
    kept = (index.family[about] < ORDERS - 1) & index.is_word[about]
    inside, before = np.tile(inside, ORDERS + 1), np.tile(before, ORDERS - 1)
    return [
        (at, firing.example[inside], inside),
        (just_before, firing.example[before], before),
        (about[kept], holder[kept], np.full(int(kept.sum()), -1)),
    ]


def _of_place(index: TermIndex, firing: Firing, kind: int, term: Ints, example: Ints, token: Ints) -> _Place:
    there, size = term >= 0, len(firing.sentences)
    pairs = np.unique(term[there] * size + example[there])
    number, row, count = np.unique(pairs // size, return_inverse=True, return_counts=True)
    is_word = index.family[number] == 0
    words = np.bincount(pairs[is_word[row]] % size, minlength=size)
    kept = (count > 1) | (is_word & (kind != ABOUT))
    row_of = np.cumsum(kept) - 1
    found = np.zeros((int(kept.sum()), size), dtype=bool)
    found[row_of[row[kept[row]]], (pairs % size)[kept[row]]] = True
    if kind == ABOUT:
        return _Place(number[kept], found, found[:, firing.example], words, len(number))
    tells = np.zeros((len(found), len(firing.token)), dtype=bool)
    row = np.searchsorted(number, term[there])
    tells[row_of[row[kept[row]]], token[there][kept[row]]] = True
    return _Place(number[kept], found, tells, words, len(number))
