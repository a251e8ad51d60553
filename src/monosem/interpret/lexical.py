"""Explanations without a language model: the words that set a latent's sentences apart from the corpus.

Flow: a share of the examples is set aside first; in the others, terms at the firing token, just before it, and anywhere
in the sentence are compared with the corpus by log-odds with an informative Dirichlet prior; the terms that together
tell the examples from the corpus best are the explanation. Where the latent fires at certain places of a sentence,
these are told beside the terms, or alone if they say more. The certainty is measured on the examples set aside. Knows
nothing of files.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monosem.interpret.ngrams import ORDERS, PIECE, Ints, TermIndex
from monosem.interpret.positions import Background, Found, stand

PRIOR = 500.0  # terms that the prior weighs as much as, spread as in the corpus
MIN_Z = 3.0
MIN_EXAMPLES = 6
MIN_SHARE = 0.1  # of the examples, that a term must be found in
MIN_FOUND = 2  # examples that a term must be found in
HELD_SHARE = 0.3
STRONG = 0.5  # of a sentence's highest value: tokens that fire at least so much count as firing
NEAR_BEST = 0.9  # of the best gain: terms that gain this much are told apart by kind and z
KINDS = ("at", "before", "about")  # preferred in this order
POSITION = "position"  # kind of a term that names a rule of `positions`


class Example(NamedTuple):
    """A sentence that a latent fires in."""

    sentence: int
    """Number in the `TermIndex`."""
    positions: Sequence[int]
    """Tokens where it fires."""
    values: Sequence[float]
    """Its value at each."""


class Term(NamedTuple):
    """One term of an explanation."""

    text: str
    kind: str
    """`at` the firing token, `before` it, or anywhere in the sentence (`about`); `position`: where the token stands."""
    z: float
    """Log-odds against the corpus over its standard deviation; of a position, its share against the corpus's."""
    share: float
    """Of the examples that chose it: in how many it was found. Of a position: of their firing tokens."""
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
    """Share of the held-out examples that hold at least one of the terms, minus the share of all sentences of the
    corpus that do (Youden's J), at least 0. With a position: share of their firing tokens that stand there, in a
    sentence with a term if there are any, minus the share of all tokens that stand there. None without a text."""
    terms: list[Term]
    held: int
    """Examples that were set aside."""
    reason: str | None = None
    """Why there is no text."""


class _Candidate(NamedTuple):
    term: int
    kind: str
    z: float
    found: NDArray[np.bool_]
    """Which of the examples."""


class _Where(NamedTuple):
    """Where a latent fires strongly."""

    sentence: Ints
    """[T] number in the index."""
    position: Ints
    """[T] of each token in it."""
    length: Ints
    """[T] tokens of the sentence."""


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
        self._background = Background(np.diff(index.token_offsets)[in_corpus])

    def explain(self, latent: int, examples: Sequence[Example], most: int) -> Explanation:
        """Find up to `most` terms for a latent's examples."""
        if len(examples) < MIN_EXAMPLES:
            return Explanation(None, None, [], 0, f"fires in {len(examples)} sentences, {MIN_EXAMPLES} are needed")
        order = np.random.default_rng((self._seed, latent)).permutation(len(examples))
        held = [examples[i] for i in order[: round(HELD_SHARE * len(examples))]]
        chosen_from = [examples[i] for i in sorted(order[len(held) :])]
        at = self._where(chosen_from)
        places = self._background.choose(at.position, at.length)
        chosen = self._choose(self._candidates(chosen_from), len(chosen_from), most - len(places))
        names = [place.name for place in places]
        if places and chosen and self._covered(chosen) <= self._background.gain(names, at.position, at.length):
            chosen = []  # what the words say besides is chance: it fires there without them
        if not chosen and not places:
            return Explanation(None, None, [], len(held), "no word sets its sentences apart from the corpus")
        terms = [self._describe(candidate, chosen_from) for candidate in chosen]
        numbers = [candidate.term for candidate in chosen]
        if places:
            terms += map(_told, places)
            certainty = self._certainty_there(names, numbers, held)
        else:
            certainty = self.certainty(numbers, [example.sentence for example in held])
        return Explanation(sentence_of(terms), certainty, terms, len(held))

    def over_represented(self, examples: Sequence[Example], most: int) -> list[Ngram]:
        """Up to `most` terms of the examples, highest z first; each term at the place where it is highest."""
        if len(examples) < MIN_EXAMPLES:
            return []
        ranked = sorted(self._candidates(examples), key=lambda one: (-one.z, KINDS.index(one.kind), one.term))
        by_term: dict[int, _Candidate] = {}
        for one in ranked:
            by_term.setdefault(one.term, one)
        best = list(by_term.values())[:most]
        words = [0 if self.index.family[one.term] == PIECE else int(self.index.family[one.term]) + 1 for one in best]
        terms = [self._describe(one, examples) for one in best]
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

    def _certainty_there(self, places: Sequence[str], terms: Sequence[int], held: Sequence[Example]) -> float:
        """Of an explanation with positions. What else the corpus holds there is not counted, so it is rather low."""
        at = self._where(held)
        told = stand(places, at.position, at.length)
        if terms:
            told &= np.isin(at.sentence, self._holders(terms))
        return max(0.0, float(told.mean()) - self._background.share(places))

    def _where(self, examples: Sequence[Example]) -> _Where:
        token, _, holder = self._strong(examples)
        sentence = np.array([example.sentence for example in examples], dtype=np.int64)[holder]
        first, stop = self.index.token_offsets[sentence], self.index.token_offsets[sentence + 1]
        return _Where(sentence, token - first, stop - first)

    @staticmethod
    def _covered(chosen: Sequence[_Candidate]) -> float:
        """Share of the examples that hold one of the terms."""
        return float(np.any([candidate.found for candidate in chosen], axis=0).mean())

    def _holders(self, terms: Sequence[int]) -> Ints:
        return np.unique(np.concatenate([self.index.by_term.of(term) for term in terms]))

    def _candidates(self, examples: Sequence[Example]) -> list[_Candidate]:
        """Over-represented terms of every kind."""
        tokens, units, holder = self._strong(examples)
        inside = units >= 0
        before = inside & (units > self.index.unit_offsets[[example.sentence for example in examples]][holder])
        places = {
            "at": (
                np.concatenate(
                    [self.index.grams[:, units[inside]].reshape(-1), self.index.token_piece[tokens[inside]]]
                ),
                np.tile(holder[inside], ORDERS + 1),
            ),
            "before": (self.index.grams[:2, units[before] - 1].reshape(-1), np.tile(holder[before], 2)),
            "about": self._about(examples),
        }
        size = len(examples)
        candidates: list[_Candidate] = []
        for kind, (term, holder) in places.items():
            pairs = np.unique((term * size + holder)[term >= 0])
            term, which, count = np.unique(pairs // size, return_inverse=True, return_counts=True)
            z = self._z(term, count)
            often = np.flatnonzero((count >= max(MIN_FOUND, MIN_SHARE * size)) & (z >= MIN_Z))
            found = np.zeros((len(term), size), dtype=bool)
            found[which, pairs % size] = True
            candidates += [_Candidate(int(term[i]), kind, float(z[i]), found[i]) for i in often]
        return candidates

    def _strong(self, examples: Sequence[Example]) -> tuple[Ints, Ints, Ints]:
        """Tokens where the latent fires strongly, the units they end in, and the examples they belong to."""
        lengths = np.array([len(example.positions) for example in examples])
        holder = np.repeat(np.arange(len(examples)), lengths)
        value = np.concatenate([example.values for example in examples])
        highest = np.maximum.reduceat(value, np.cumsum(lengths) - lengths)
        first = self.index.token_offsets[[example.sentence for example in examples]]
        token = first[holder] + np.concatenate([example.positions for example in examples])
        strong = value >= STRONG * highest[holder]
        return token[strong], self.index.token_unit[token[strong]], holder[strong]

    def _about(self, examples: Sequence[Example]) -> tuple[Ints, Ints]:
        """Words and bigrams of whole sentences, and the examples that hold them."""
        terms = [self.index.by_sentence.of(example.sentence) for example in examples]
        term, holder = np.concatenate(terms), np.repeat(np.arange(len(terms)), [len(one) for one in terms])
        kept = (self.index.family[term] < 2) & self.index.is_word[term]
        return term[kept], holder[kept]

    def _z(self, term: Ints, count: Ints) -> NDArray[np.float64]:
        """Over-representation: log-odds ratio with an informative Dirichlet prior, over its standard deviation.

        Monroe, Colaresi & Quinn 2008, section 3.5.1 (equations 16, 22, 23). A term is counted once a sentence, and
        against the number of words there, n-grams and word pieces as well: each place has one word that it ends in.
        """
        here = count[self.index.family[term] == 0].sum()
        rest = np.maximum(self._frequency[term] - count, 0)
        prior = PRIOR * np.maximum(self._frequency[term], 1) / max(self._words, 1)
        odds_here = (count + prior) / (here + PRIOR - count - prior)
        odds_rest = (rest + prior) / (max(self._words - here, 0) + PRIOR - rest - prior)
        return np.log(odds_here / odds_rest) / np.sqrt(1 / (count + prior) + 1 / (rest + prior))

    def _choose(self, candidates: list[_Candidate], size: int, most: int) -> list[_Candidate]:
        """Greedily, the terms that tell the examples from the corpus best together (largest Youden's J).

        Of terms that gain nearly as much as the best, one at the firing token is told first, then the most
        over-represented: so "United Nations" goes before "Nations".
        """
        covered = np.zeros(size, dtype=bool)
        in_corpus = np.zeros(len(self._in_corpus), dtype=bool)
        chosen: list[_Candidate] = []
        while candidates and len(chosen) < most:
            gains = self._gains(candidates, covered, in_corpus)
            if gains.max() <= 1 / size:
                break
            near = [candidates[i] for i in np.flatnonzero(gains >= NEAR_BEST * gains.max())]
            best = min(near, key=lambda candidate: (KINDS.index(candidate.kind), -candidate.z, candidate.term))
            chosen.append(best)
            covered |= best.found
            in_corpus[self.index.by_term.of(best.term)] = True
            candidates = [candidate for candidate in candidates if candidate.term != best.term]
        return sorted(chosen, key=lambda candidate: KINDS.index(candidate.kind))

    def _gains(
        self, candidates: list[_Candidate], covered: NDArray[np.bool_], in_corpus: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """What each term adds to Youden's J; -1 for one whose new examples alone show that it is far from the best."""
        reach = (np.array([candidate.found for candidate in candidates]) & ~covered).mean(1)
        gains = np.full(len(candidates), -1.0)
        best = 0.0
        for i in np.argsort(-reach, kind="stable"):
            if reach[i] < NEAR_BEST * best:
                break
            holders = self.index.by_term.of(candidates[i].term)
            fresh = (self._in_corpus[holders] & ~in_corpus[holders]).sum()
            gains[i] = reach[i] - fresh / max(self._size, 1)
            best = max(best, gains[i])
        return gains

    def _describe(self, candidate: _Candidate, examples: Sequence[Example]) -> Term:
        first = int(np.argmax(candidate.found))
        return Term(
            self.index.surface(candidate.term, examples[first].sentence),
            candidate.kind,
            round(candidate.z, 3),
            round(float(candidate.found.mean()), 4),
            round(float(self._frequency[candidate.term] / max(self._size, 1)), 6),
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
