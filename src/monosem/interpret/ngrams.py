"""The words, n-grams and word pieces of a corpus as numbers, and the sentences that hold each.

Flow: `TermIndex.build` splits texts into units (words of any script, and punctuation marks), numbers every word, every
bigram and trigram of words that occurs twice, and every token that is part of a word ("-ing"), and sorts the pairs of
term and sentence both ways. Case is folded; accents are kept. Knows nothing of latents.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

UNIT = re.compile(r"[^\W_]+|[^\w\s]|_")
ORDERS = 3  # longest n-gram
PIECE = ORDERS  # family of the word pieces; families 0, 1, 2 are words, bigrams, trigrams
Ints = NDArray[np.int64]


class Unit(NamedTuple):
    """A word or a punctuation mark in a text."""

    key: str
    """Its text, case folded."""
    start: int
    end: int


def units(text: str) -> list[Unit]:
    """Words and punctuation marks, in order.

    A word is a run of letters and digits of any script: "l'école" has two, so that "école" is found in it.
    """
    return [Unit(found.group().casefold(), *found.span()) for found in UNIT.finditer(text)]


class Postings(NamedTuple):
    """A relation: the values of key i are `values[offsets[i]:offsets[i + 1]]`, ascending, none twice."""

    offsets: Ints
    values: Ints

    def of(self, key: int) -> Ints:
        """The values of a key."""
        return self.values[self.offsets[key] : self.offsets[key + 1]]

    @classmethod
    def build(cls, keys: Ints, values: Ints, n_keys: int, n_values: int) -> "Postings":
        """From pairs in any order, repeats allowed."""
        pairs = np.unique(keys * n_values + values)
        return cls(np.searchsorted(pairs, np.arange(n_keys + 1) * n_values), pairs % n_values)


class TermIndex(NamedTuple):
    """Terms of S sentences with U units and T tokens."""

    texts: Sequence[str]
    unit_offsets: Ints
    """[S + 1] units of each sentence."""
    unit_start: Ints
    """[U] characters."""
    unit_end: Ints
    """[U]"""
    grams: Ints
    """[3, U] term that ends at each unit, by order; -1 for none."""
    token_offsets: Ints
    """[S + 1] tokens of each sentence."""
    token_unit: Ints
    """[T] unit that holds the token's last character; -1 for white space."""
    token_piece: Ints
    """[T] term of a token that is part of a word; -1 for others."""
    family: NDArray[np.int8]
    """[terms] 0 word or mark, 1 bigram, 2 trigram, 3 word piece."""
    is_word: NDArray[np.bool_]
    """[terms] False for punctuation marks."""
    by_term: Postings
    """Sentences that hold a term."""
    by_sentence: Postings
    """Terms that a sentence holds."""
    piece_names: Sequence[str]
    """Of the terms of family 3, which are the last ones: `-ing`, `un-`, `-ver-`."""

    @classmethod
    def build(cls, texts: Sequence[str], spans: Sequence[tuple[Sequence[int], Sequence[int]]]) -> "TermIndex":
        """Index sentences.

        Args:
            texts: S sentences.
            spans: starts and ends, in characters, of each sentence's tokens.
        """
        split = [units(text) for text in texts]
        unit_offsets = _offsets([len(one) for one in split])
        numbers: dict[str, int] = {}
        words = np.array([numbers.setdefault(u.key, len(numbers)) for one in split for u in one], dtype=np.int64)
        word_like = np.array([key[0].isalnum() for key in numbers], dtype=bool)
        grams = _number_ngrams(words, word_like, unit_offsets)
        counts = [len(numbers), *(int(row.max(initial=-1)) + 1 for row in grams[1:])]
        for order in range(1, ORDERS):
            grams[order, grams[order] >= 0] += sum(counts[:order])
        pieces: dict[str, int] = {}
        tokens = [_locate(one, *span, pieces) for one, span in zip(split, spans, strict=True)]
        token_offsets = _offsets([len(one) for one in tokens])
        located = np.array([pair for one in tokens for pair in one], dtype=np.int64).reshape(-1, 2)
        first_unit = np.repeat(unit_offsets[:-1], np.diff(token_offsets))
        token_unit = np.where(located[:, 0] >= 0, located[:, 0] + first_unit, -1)
        token_piece = np.where(located[:, 1] >= 0, located[:, 1] + sum(counts), -1)

        terms, size = sum(counts) + len(pieces), len(texts)
        unit_sentence = np.repeat(np.arange(size), np.diff(unit_offsets))
        token_sentence = np.repeat(np.arange(size), np.diff(token_offsets))
        term = np.concatenate([*grams, token_piece])
        sentence = np.concatenate([unit_sentence] * ORDERS + [token_sentence])
        term, sentence = term[term >= 0], sentence[term >= 0]
        return cls(
            texts,
            unit_offsets,
            np.array([u.start for one in split for u in one], dtype=np.int64),
            np.array([u.end for one in split for u in one], dtype=np.int64),
            grams,
            token_offsets,
            token_unit,
            token_piece,
            np.repeat(np.arange(ORDERS + 1), [*counts, len(pieces)]).astype(np.int8),
            np.append(word_like, np.ones(terms - len(numbers), dtype=bool)),
            Postings.build(term, sentence, terms, size),
            Postings.build(sentence, term, size, terms),
            list(pieces),
        )

    def surface(self, term: int, sentence: int) -> str:
        """A term as this sentence, which holds it, writes it."""
        family = int(self.family[term])
        if family == PIECE:
            return self.piece_names[term - (len(self.family) - len(self.piece_names))]
        start, stop = self.unit_offsets[sentence : sentence + 2]
        end = start + int(np.argmax(self.grams[family, start:stop] == term))
        return self.texts[sentence][self.unit_start[end - family] : self.unit_end[end]]


def _number_ngrams(words: Ints, word_like: NDArray[np.bool_], unit_offsets: Ints) -> Ints:
    """[3, U]: numbers, from 0 in each order, of the n-gram that ends at each unit; -1 where there is none.

    An n-gram consists of words of one sentence and occurs at least twice, as does every shorter one that begins it.
    """
    grams = np.full((ORDERS, len(words)), -1, dtype=np.int64)
    grams[0] = words
    opens = np.zeros(len(words), dtype=bool)
    opens[unit_offsets[:-1][np.diff(unit_offsets) > 0]] = True
    follows = word_like[words] & ~opens if len(words) else opens
    head = np.where(word_like[words], words, -1) if len(words) else words
    for order in range(1, ORDERS):
        ends = np.flatnonzero(follows[1:] & (head[:-1] >= 0)) + 1
        key = head[ends - 1] * max(len(word_like), 1) + words[ends]
        _, inverse, count = np.unique(key, return_inverse=True, return_counts=True)
        number = np.cumsum(count > 1) - 1
        head = np.full(len(words), -1, dtype=np.int64)
        head[ends] = np.where(count > 1, number, -1)[inverse]
        grams[order] = head
    return grams


def _locate(
    split: list[Unit], starts: Sequence[int], ends: Sequence[int], pieces: dict[str, int]
) -> list[tuple[int, int]]:
    """For each token of a sentence: the unit that holds its last character, and its piece if it is part of a word."""
    found: list[tuple[int, int]] = []
    at = 0
    for start, end in zip(starts, ends, strict=True):
        while at < len(split) and split[at].end < end:
            at += 1
        if at == len(split) or split[at].start >= end:
            found.append((-1, -1))
            continue
        unit = split[at]
        inside = unit.key[max(start - unit.start, 0) : end - unit.start]
        if inside == unit.key or not inside:
            found.append((at, -1))
        else:
            name = f"{'-' if start > unit.start else ''}{inside}{'-' if end < unit.end else ''}"
            found.append((at, pieces.setdefault(name, len(pieces))))
    return found


def _offsets(lengths: list[int]) -> Ints:
    return np.append(0, np.cumsum(lengths)).astype(np.int64)
