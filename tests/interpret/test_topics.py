"""Latents of a topic: many words, Zipf-distributed among themselves, most of which few examples hold."""

from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from monosem.interpret.firing_tokens import Example
from monosem.interpret.lexical import Explanation, Lexicon
from monosem.interpret.ngrams import TermIndex

SENTENCES, EXAMPLES, TERMS = 3000, 90, 24
SIZES = (4, 6, 10, 20)
SEEDS = (0, 1, 2)


class Topic(NamedTuple):
    """Sentences of nonsense; one in sixteen holds one or two words of the topic, at which the latent fires."""

    size: int
    rows: list[list[str]]
    fires: list[list[int]]
    """Of each sentence, the tokens at which the latent fires."""

    @classmethod
    @cache
    def plant(cls, size: int, seed: int) -> "Topic":
        rng = np.random.default_rng((size, seed))
        usual, topic = 1 / np.arange(1, 2001), 1 / np.arange(1, size + 1)
        drawn = rng.choice([f"w{i}" for i in range(2000)], (SENTENCES, 19), p=usual / usual.sum()).tolist()
        rows, fires = [], []
        for number, words in enumerate(drawn):
            row, at = words[: rng.integers(8, 20)], []
            if number % 16 == 3:
                at = sorted(rng.choice(len(row), rng.integers(1, 3), replace=False).tolist())
                for place, word in zip(
                    at, rng.choice(size, len(at), replace=size == 1, p=topic / topic.sum()), strict=True
                ):
                    row[place] = f"topic{word}"
            rows.append(row)
            fires.append(at)
        return cls(size, rows, fires)

    def shuffled(self, seed: int) -> "Topic":
        """The same sentences; it fires as often, anywhere."""
        rng = np.random.default_rng(seed)
        fires = [[int(rng.integers(len(row)))] if rng.random() < 1 / 16 else [] for row in self.rows]
        return self._replace(fires=fires)

    def explained(self, most: int = TERMS) -> Explanation:
        """From examples in the first half of the sentences."""
        half = self.rows[: SENTENCES // 2]
        spans = []
        for row in half:
            ends = np.cumsum([len(word) + 1 for word in row]) - 1
            spans.append(([0, *ends[:-1].tolist()], ends.tolist()))
        index = TermIndex.build([" ".join(row) for row in half], spans)
        examples = [Example(i, at, [1.0] * len(at)) for i, at in enumerate(self.fires[: len(half)]) if at]
        return Lexicon(index, np.ones(len(half), dtype=bool), 0).explain(7, examples[:EXAMPLES], most)


def graded(topic: Topic, explanation: Explanation) -> tuple[float, float]:
    """Token precision and recall of the terms at the firing token, in the sentences that nobody explained."""
    said = {term.text for term in explanation.terms if term.kind == "at"}
    pairs = [
        (word in said, word.startswith("topic"))
        for row in topic.rows[SENTENCES // 2 :]
        for word in row
        if word in said or word.startswith("topic")
    ]
    hits = sum(told and true for told, true in pairs)
    return hits / max(sum(told for told, _ in pairs), 1), hits / sum(true for _, true in pairs)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", SIZES)
def test_the_words_of_a_topic_are_told(size, seed):
    topic = Topic.plant(size, seed)
    explanation = topic.explained()
    precision, recall = graded(topic, explanation)
    assert precision >= 0.9, explanation
    assert recall >= 0.9, explanation
    assert (explanation.certainty or 0.0) >= 0.7  # of what two thirds of the examples tell


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", SIZES)
def test_shuffled_firings_have_no_topic(size, seed):
    topic = Topic.plant(size, seed).shuffled(seed)
    explanation = topic.explained()
    assert len(explanation.terms) <= 3, explanation  # about one of each place is found by chance
    assert (explanation.certainty or 0.0) < 0.15
    assert graded(topic, explanation)[1] < 0.3


def test_words_found_once_need_a_topic():
    """They are told beside the many words of a topic, and not beside one word and noise."""
    topic = Topic.plant(20, 0)
    once = [term for term in topic.explained().terms if term.share < 1.5 / EXAMPLES]
    assert once
    assert all(term.text.startswith("topic") for term in once)
    rows = [["topic0" if word.startswith("topic") else word for word in row] for row in topic.rows]
    rng = np.random.default_rng(3)
    fires = [
        at or [int(rng.integers(len(row)))] * (rng.random() < 0.05) for row, at in zip(rows, topic.fires, strict=True)
    ]
    noisy = Topic(1, rows, fires).explained()
    assert noisy.terms[0].text == "topic0"
    assert all(term.share > 1.5 / EXAMPLES for term in noisy.terms)


def test_no_more_terms_than_are_asked_for():
    topic = Topic.plant(20, 1)
    most = topic.explained(5)
    assert len(most.terms) == 5
    assert most.terms == sorted(most.terms, key=lambda term: -term.share)


def test_a_term_that_another_says_is_left_out():
    """It fires at "only", which often is "the only": the bigram is told first, and left out once the word is."""
    topic = Topic.plant(1, 0)
    rows = [list(row) for row in topic.rows]
    for number, (row, at) in enumerate(zip(rows, topic.fires, strict=True)):
        if len(at) == 1 and at[0]:
            row[at[0] - 1 : at[0] + 1] = ["the" if number % 15 else "an", "only"]
        elif number % 30 == 4:
            row[2] = "only"
    fires = [at if len(at) == 1 and at[0] else [] for at in topic.fires]
    assert Topic(1, rows, fires).explained().text == '"only" (at the firing token)'
