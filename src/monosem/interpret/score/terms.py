"""An explanation by terms as a classifier of sentences: which sentences hold which of its terms, and what follows.

Flow: `Vocabulary` numbers the terms of all explanations and finds them in sentences, as a sparse table; `Detector` has
a weight for each term of each explanation, so that many explanations are tried on many sentences by one sparse product.
A sentence is said to fire if it holds any of the terms. Knows no latent and no file.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from monosem.interpret.ngrams import ORDERS, units
from monosem.interpret.positions import within

PIECE = re.compile(r"-[^\W_]+-?|[^\W_]+-")  # a token that is part of a word: "-ing", "un-", "-ver-"


@lru_cache(maxsize=1 << 18)  # explanations share terms, and batches of latents share explanations
def key_of(term: str) -> str:
    """What two spellings of one term have in common: case and white space do not count."""
    return term.casefold() if PIECE.fullmatch(term) else " ".join(unit.key for unit in units(term))


class Vocabulary:
    """Numbers of terms."""

    def __init__(self, terms: Iterable[str]) -> None:
        self._number: dict[str, int] = {}
        for term in terms:
            self._number.setdefault(key_of(term), len(self._number))

    def __len__(self) -> int:
        return len(self._number)

    def number(self, term: str) -> int:
        """A term's number.

        Raises:
            KeyError: it is not among the terms.
        """
        return self._number[key_of(term)]

    def held(self, text: str, starts: Sequence[int], ends: Sequence[int]) -> set[int]:
        """The terms that a sentence holds, whose tokens span the characters `starts` to `ends`."""
        words = [unit.key for unit in units(text)]
        keys = {" ".join(words[i : i + order]) for order in range(1, ORDERS + 1) for i in range(len(words) - order + 1)}
        keys.update((key for _, key in pieces(text, starts, ends)), within(len(starts)))
        return {self._number[key] for key in keys if key in self._number}

    def holdings(self, sentences: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> sparse.csr_array:
        """[S, terms] 1 where a sentence (its text, starts, ends) holds a term."""
        held = [sorted(self.held(*sentence)) for sentence in sentences]
        offsets = np.append(0, np.cumsum([len(one) for one in held]))
        indices = np.array([term for one in held for term in one], dtype=np.int32)
        return sparse.csr_array((np.ones(len(indices), np.float32), indices, offsets), shape=(len(held), len(self)))


class Detector:
    """E explanations by terms, ready to judge sentences.

    Args:
        explanations: of each, its terms and their weights, larger than 0; without any it never says yes.
    """

    def __init__(self, vocabulary: Vocabulary, explanations: Sequence[Mapping[str, float]]) -> None:
        numbers = [vocabulary.number(term) for terms in explanations for term in terms]
        weights = np.array([weight for terms in explanations for weight in terms.values()], dtype=np.float32)
        column = np.repeat(np.arange(len(explanations)), [len(terms) for terms in explanations])
        shape = (len(vocabulary), len(explanations))
        self._weights = sparse.csc_array((weights, (np.array(numbers, dtype=np.int64), column)), shape=shape)

    def evidence(self, holdings: sparse.csr_array, explanations: NDArray[np.integer]) -> NDArray[np.float32]:
        """[explanations, S] summed weight of the terms that each sentence holds; more than 0 means that it fires."""
        return (holdings @ self._weights[:, explanations]).toarray().T


def pieces(text: str, starts: Sequence[int], ends: Sequence[int]) -> Iterable[tuple[int, str]]:
    """The tokens that are part of a word: their numbers, and how terms spell them."""
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        core = text[start:end].lstrip()
        if core.isalnum():
            first = end - len(core)
            open_ = first > 0 and text[first - 1].isalnum()
            more = end < len(text) and text[end].isalnum()
            if open_ or more:
                yield number, f"{'-' * open_}{core}{'-' * more}".casefold()
