"""An explanation by terms as a classifier of tokens: at which tokens of a sample does it say that its latent fires?

Flow: every term that is told `at` or `before` the firing token is looked up once in the sentences that are graded; an
explanation then says the places of its terms, those among them that stand where its positions tell, or these alone.
Terms that a sentence is `about` do not say where: without a position such an explanation says nothing of tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monosem.interpret.lexical import POSITION
from monosem.interpret.ngrams import ORDERS, Unit, units
from monosem.interpret.positions import stand
from monosem.interpret.score.held_out import Text
from monosem.interpret.score.places import Ints
from monosem.interpret.score.sample import Sample
from monosem.interpret.score.terms import key_of, pieces

Terms = Sequence[Mapping[str, Any]]
"""Of one explanation, as `explanations.jsonl` has them."""


class TermPlaces:
    """The places of many explanations in the sentences of a sample.

    Args:
        texts: of the sample's sentences, in order, with their spans.
        graded: [T] tokens that are asked about; sentences without any are not read.
        explanations: of each latent.
    """

    def __init__(
        self, sample: Sample, texts: Sequence[Text], graded: NDArray[np.bool_], explanations: Mapping[int, Terms]
    ) -> None:
        self._graded, self._explanations = graded, explanations
        places = sample.places
        self._position, self._length = places.position, places.length
        wanted = {(term["kind"], key_of(term["text"])) for terms in explanations.values() for term in terms}
        found: dict[tuple[str, str], list[int]] = {key: [] for key in wanted}
        for number in np.unique(sample.of_place[graded]).tolist():
            first, stop = places.offsets[number : number + 2].tolist()
            for kind, key, token in _spoken(texts[number]):
                if (kind, key) in found:
                    found[kind, key] += range(first, stop) if token is None else [first + token]
        self._places = {key: np.unique(np.array(at, dtype=np.int64)) for key, at in found.items()}

    @property
    def latents(self) -> list[int]:
        """Those whose explanations say where they fire."""
        return [latent for latent, terms in self._explanations.items() if any(t["kind"] != "about" for t in terms)]

    def said(self, latent: int) -> Ints:
        """The graded places at which an explanation says that its latent fires, ascending."""
        terms = self._explanations[latent]
        positions = [term["text"] for term in terms if term["kind"] == POSITION]
        words = [term for term in terms if term["kind"] != POSITION]
        if not positions:
            words = [term for term in words if term["kind"] != "about"]
        at = np.flatnonzero(self._graded)
        if words:
            held = np.unique(np.concatenate([self._places[term["kind"], key_of(term["text"])] for term in words]))
            at = held[self._graded[held]]
        return at[stand(positions, self._position[at], self._length[at])] if positions else at


def _spoken(text: Text) -> Iterator[tuple[str, str, int | None]]:
    """Kind and key of every term of a sentence, and the token that it points to; None: all of them.

    A term `at` a token ends with it: of a word that has several tokens, with the last. One `before` it is a word or two
    that end just before the first token of the next unit.
    """
    split = units(text.text)
    starting, ending = _tokens_of(split, text.starts, text.ends)
    for i in range(len(split)):
        for order in range(1, min(ORDERS, i + 1) + 1):
            key = " ".join(unit.key for unit in split[i - order + 1 : i + 1])
            if ending[i] is not None:
                yield "at", key, ending[i]
            if order < ORDERS and i + 1 < len(split) and starting[i + 1] is not None:
                yield "before", key, starting[i + 1]
            yield "about", key, None
    for token, key in pieces(text.text, text.starts, text.ends):
        yield "at", key, token


def _tokens_of(
    split: Sequence[Unit], starts: Sequence[int], ends: Sequence[int]
) -> tuple[list[int | None], list[int | None]]:
    """Of each unit the first token that ends in it, and the last; None where no token does: the sentence was cut."""
    first: list[int | None] = [None] * len(split)
    last: list[int | None] = [None] * len(split)
    at = 0
    for token, (start, end) in enumerate(zip(starts, ends, strict=True)):
        while at < len(split) and split[at].end < end:
            at += 1
        if at < len(split) and max(start, split[at].start) < end:
            first[at] = token if first[at] is None else first[at]
            last[at] = token
    return first, last
