"""Explanations without a language model: the words that set a latent's sentences apart from the corpus.

Flow: terms at the firing token, just before it, and anywhere in the sentence are compared with the corpus
(`candidates`); those that together tell the examples from the corpus best are the explanation (`choosing`). Where the
latent fires at certain places of a sentence, these are told beside the terms, or alone if they say more. How certain
that is, is measured on a share of the examples by an explanation of the others. Knows nothing of files.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monosem.interpret.candidates import KINDS, Candidates, Weights, weigh
from monosem.interpret.choosing import Chooser, alone
from monosem.interpret.firing_tokens import Example, Firing
from monosem.interpret.ngrams import PIECE, Ints, TermIndex
from monosem.interpret.positions import Background, Found, stand

MIN_EXAMPLES = 6
MIN_SHARE = 0.1  # of the examples, that an n-gram of `over_represented` is found in
HELD_SHARE = 0.3
POSITION = "position"  # kind of a term that names a rule of `positions`


class Term(NamedTuple):
    """One term of an explanation."""

    text: str
    kind: str
    """`at` the firing token, `before` it, or anywhere in the sentence (`about`); `position`: where the token stands."""
    z: float
    """Standard deviations above what the corpus would give; of a position, its share against the corpus's."""
    share: float
    """Of the examples: in how many it was found. Of a position: of their firing tokens."""
    corpus_share: float
    """Of all sentences of the corpus: in how many it stands, anywhere. Of a position: of all tokens."""


class Ngram(NamedTuple):
    """A term that stands in a latent's examples more often than in the corpus."""

    text: str
    place: str
    """`at` the firing token, `before` it, or anywhere in the sentence (`about`)."""
    words: int
    """1 to 3; 0 for a piece of a word."""
    z: float
    share: float
    corpus_share: float


class Explanation(NamedTuple):
    """What a latent reacts to, or why that cannot be said."""

    text: str | None
    certainty: float | None
    """A share of the examples is held out, and the others are explained: share of the held-out ones that hold at least
    one of those terms, minus the share of all sentences of the corpus that do (Youden's J), at least 0. With a
    position: share of their firing tokens that stand there, in a sentence with a term if there are any, minus the share
    of all tokens that stand there. None without a text."""
    terms: list[Term]
    held: int
    """Examples that the certainty was measured on."""
    reason: str | None = None
    """Why there is no text."""


class _Choice(NamedTuple):
    """What is told of some examples."""

    rows: Ints
    """Candidates."""
    places: list[Found]


class Lexicon:
    """Explains latents against one corpus.

    Args:
        index: terms of the corpus and of all example sentences.
        in_corpus: [S] which sentences are the corpus; the others were only indexed because they are examples.
        seed: decides which examples are set aside.
    """

    def __init__(self, index: TermIndex, in_corpus: NDArray[np.bool_], seed: int) -> None:
        self.index, self._in_corpus, self._seed = index, in_corpus, seed
        self._size = int(in_corpus.sum())
        held = np.append(0, np.cumsum(in_corpus[index.by_term.values]))
        self._frequency = np.diff(held[index.by_term.offsets])
        """[terms] sentences of the corpus that hold each term."""
        self._words = int(self._frequency[index.family == 0].sum())
        """Words of the corpus, each counted once a sentence."""
        self._chooser = Chooser(index.by_term, in_corpus)
        self._background = Background(np.diff(index.token_offsets)[in_corpus])

    def explain(self, latent: int, examples: Sequence[Example], most: int) -> Explanation:
        """Find up to `most` terms for a latent's examples."""
        if len(examples) < MIN_EXAMPLES:
            return Explanation(None, None, [], 0, f"fires in {len(examples)} sentences, {MIN_EXAMPLES} are needed")
        candidates = Candidates.gather(self.index, Firing.read(self.index, examples))
        held = np.zeros(len(examples), dtype=bool)
        order = np.random.default_rng((self._seed, latent)).permutation(len(examples))
        held[order[: round(HELD_SHARE * len(examples))]] = True
        weights = self._weigh(candidates)
        told = self._choose(candidates, weights, most)
        if not len(told.rows) and not told.places:
            return Explanation(None, None, [], int(held.sum()), "no word sets its sentences apart from the corpus")
        terms = [self._describe(candidates, weights, row) for row in told.rows.tolist()] + list(map(_told, told.places))
        others = candidates.of(~held)
        tried = self._choose(others, self._weigh(others), most)
        certainty = self._measured(tried, candidates.term[tried.rows].tolist(), candidates.firing.of(held))
        return Explanation(sentence_of(terms), certainty, terms, int(held.sum()))

    def over_represented(self, examples: Sequence[Example], most: int) -> list[Ngram]:
        """Up to `most` terms of the examples, highest z first; each term at the place where it is highest."""
        if len(examples) < MIN_EXAMPLES:
            return []
        candidates = Candidates.gather(self.index, Firing.read(self.index, examples))
        weights = self._weigh(candidates)
        often = np.flatnonzero(alone(weights) & (weights.count >= MIN_SHARE * len(examples)))
        by_term: dict[int, int] = {}
        for row in often[np.lexsort((candidates.term[often], candidates.kind[often], -weights.z[often]))].tolist():
            by_term.setdefault(int(candidates.term[row]), row)
        best = dict(list(by_term.items())[:most])
        words = [0 if family == PIECE else int(family) + 1 for family in self.index.family[list(best)]]
        terms = [self._describe(candidates, weights, row) for row in best.values()]
        return [Ngram(term.text, term.kind, count, *term[2:]) for term, count in zip(terms, words, strict=True)]

    def rarity(self, terms: Ints) -> NDArray[np.float64]:
        """ln((1 + sentences of the corpus) / (1 + those that hold the term)), [terms]."""
        return np.log((1 + self._size) / (1 + np.minimum(self._frequency[terms], self._size)))

    def random_units(self, count: int, seed: tuple[int, int]) -> Ints:
        """Units of random sentences of the corpus, one in each."""
        random = np.random.default_rng(seed)
        filled = np.flatnonzero(self._in_corpus & (np.diff(self.index.unit_offsets) > 0))
        sentence = random.choice(filled, count)
        first, stop = self.index.unit_offsets[sentence], self.index.unit_offsets[sentence + 1]
        return first + (random.random(count) * (stop - first)).astype(np.int64)

    def certainty(self, terms: Sequence[int], held: Sequence[int]) -> float:
        """Share of the held-out sentences with a term, minus that of the corpus; at least 0."""
        holders = self._holders(terms)
        share = np.isin(held, holders).mean()
        return max(0.0, float(share - self._in_corpus[holders].sum() / max(self._size, 1)))

    def _choose(self, candidates: Candidates, weights: Weights, most: int) -> _Choice:
        firing = candidates.firing
        places = self._background.choose(firing.position, firing.length)
        is_word = self.index.family[candidates.term] == 0
        rows = self._chooser.choose(candidates, weights, is_word, most - len(places))
        if places and len(rows):
            covered = candidates.found[rows].any(0).mean()
            if covered <= self._background.gain([place.name for place in places], firing.position, firing.length):
                rows = rows[:0]  # what the words say besides is chance: it fires there without them
        return _Choice(rows, places)

    def _weigh(self, candidates: Candidates) -> Weights:
        return weigh(candidates, self._frequency, self._words)

    def _measured(self, tried: _Choice, terms: Sequence[int], held: Firing) -> float:
        """How well what is told of other examples holds of these."""
        if not tried.places:
            return self.certainty(terms, held.sentences.tolist()) if terms else 0.0
        names = [place.name for place in tried.places]
        there = stand(names, held.position, held.length)  # what else the corpus holds there is not counted: rather low
        if terms:
            there &= np.isin(held.sentences[held.example], self._holders(terms))
        return max(0.0, float(there.mean()) - self._background.share(names))

    def _holders(self, terms: Sequence[int]) -> Ints:
        return np.unique(np.concatenate([self.index.by_term.of(term) for term in terms]))

    def _describe(self, candidates: Candidates, weights: Weights, row: int) -> Term:
        found, term = candidates.found[row], int(candidates.term[row])
        return Term(
            self.index.surface(term, int(candidates.firing.sentences[np.argmax(found)])),
            KINDS[candidates.kind[row]],
            round(float(weights.z[row]), 3),
            round(float(found.mean()), 4),
            round(float(self._frequency[term] / max(self._size, 1)), 6),
        )


def _told(place: Found) -> Term:
    return Term(place.name, POSITION, round(place.z, 3), round(place.share, 4), round(place.corpus_share, 6))


def sentence_of(terms: Sequence[Term]) -> str:
    """The terms as a line to read: `"United Nations" (at the firing token); after "of the"; about: treaty, council`.

    With positions: `"The" (at the firing token); only at the first token of the sentence`.
    """
    by_kind = {kind: [term.text for term in terms if term.kind == kind] for kind in (*KINDS, POSITION)}
    parts = []
    if by_kind["at"]:
        parts.append(", ".join(f'"{text}"' for text in by_kind["at"]) + " (at the firing token)")
    if by_kind["before"]:
        parts.append("after " + ", ".join(f'"{text}"' for text in by_kind["before"]))
    if by_kind["about"]:
        parts.append("about: " + ", ".join(by_kind["about"]))
    if by_kind[POSITION]:
        parts.append(("only " if parts else "") + "at the " + ", the ".join(by_kind[POSITION]))
    return "; ".join(parts)


def of_sentence(terms: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The terms, as `Term` objects of JSON, that tell sentences apart: words, or positions where there are no words."""
    return [term for term in terms if term["kind"] != POSITION] or list(terms)
