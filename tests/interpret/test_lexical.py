"""Latents that fire by a known rule are explained by that rule; shuffled ones are not."""

import numpy as np
import pytest

from monosem.interpret.firing_tokens import Example
from monosem.interpret.lexical import Lexicon, Term, sentence_of
from monosem.interpret.ngrams import TermIndex, units

SENTENCES = 3000
TOPIC = ("treaty", "resolution", "ambassador", "summit", "embassy", "envoy")


def words_of(seed: int) -> list[list[str]]:
    """Sentences of Zipf-distributed nonsense words, in which the rules' words are planted."""
    rng = np.random.default_rng(seed)
    rank = np.arange(1, 2001)
    words = [
        f"w{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10 % 10]}{'uvxyz'[i // 100 % 5]}{i // 500}" for i in range(2000)
    ]
    drawn = rng.choice(words, size=(SENTENCES, 14), p=(1 / rank) / (1 / rank).sum())
    text = [list(row[: rng.integers(6, 15)]) for row in drawn]
    for number, row in enumerate(text):
        at = int(rng.integers(0, len(row) - 2))
        if number % 23 == 0:
            row[at] = "Vulcan"
        if number % 29 == 1:
            row[at : at + 2] = ["United", "Nations"]
        if number % 31 == 2:
            row[at] = "United"
        if number % 37 == 3:
            row[at] = "Nations"
        if number % 19 == 4:
            row[at : at + 2] = rng.choice(TOPIC, size=2, replace=False)
        if number % 17 == 5:
            row[at] = str(rng.choice(["runn", "mak", "tak", "bak", "sail", "fish", "hunt", "walk", "jump"])) + "ing"
    return text


class Corpus:
    """Sentences with tokens that are words, a final "ing" being a token of its own."""

    def __init__(self, seed: int = 0) -> None:
        self.words = words_of(seed)
        self.texts = [" ".join(row) for row in self.words]
        self.tokens = [self._spans(text) for text in self.texts]
        self.index = TermIndex.build(self.texts, [(starts, ends) for starts, ends in self.tokens])
        self.lexicon = Lexicon(self.index, np.ones(SENTENCES, dtype=bool), seed=0)

    @staticmethod
    def _spans(text: str) -> tuple[list[int], list[int]]:
        cuts = [
            end for unit in units(text) for end in ([unit.end - 3] if unit.key.endswith("ing") else []) + [unit.end]
        ]
        return [0, *cuts[:-1]], cuts

    def fires(self, rule) -> dict[int, list[int]]:
        """By sentence, the positions of the tokens for which `rule(tokens, i)` holds."""
        found = {}
        for number, (text, (starts, ends)) in enumerate(zip(self.texts, self.tokens, strict=True)):
            tokens = [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]
            positions = [i for i in range(len(tokens)) if rule(tokens, i)]
            if positions:
                found[number] = positions
        return found

    def explain(self, fires: dict[int, list[int]], most: int = 6):
        examples = [Example(number, at, [1.0] * len(at)) for number, at in list(fires.items())[:50]]
        return self.lexicon.explain(7, examples, most)

    def holds(self, term: Term) -> set[int]:
        """Sentences in whose text the term stands."""
        if term.text.startswith("-"):
            return {i for i, row in enumerate(self.words) if any(word.endswith(term.text[1:]) for word in row)}
        return {i for i, text in enumerate(self.texts) if f" {term.text} " in f" {text} "}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus()


RULES = {
    "word": lambda tokens, i: tokens[i] == "Vulcan",
    "bigram": lambda tokens, i: i > 0 and tokens[i - 1 : i + 1] == ["United", "Nations"],
    "topic": lambda tokens, i: tokens[i] in TOPIC,
    "piece": lambda tokens, i: tokens[i] == "ing",
    "after": lambda tokens, i: i > 0 and tokens[i - 1] == "Vulcan",
}


@pytest.mark.parametrize("rule", RULES)
def test_a_planted_rule_is_recovered(corpus, rule):
    fires = corpus.fires(RULES[rule])
    explanation = corpus.explain(fires)
    told = set().union(*(corpus.holds(term) for term in explanation.terms))
    assert len(told & set(fires)) / len(told) >= 0.9, explanation
    assert len(told & set(fires)) / len(fires) >= 0.9, explanation
    assert explanation.certainty >= 0.85


@pytest.mark.parametrize("rule", RULES)
def test_a_shuffled_control_is_not(corpus, rule):
    fires = corpus.fires(RULES[rule])
    rng = np.random.default_rng(5)
    others = rng.choice(SENTENCES, size=len(fires), replace=False)
    shuffled = {int(i): [int(rng.integers(0, len(corpus.tokens[i][0])))] for i in others}
    explanation = corpus.explain(shuffled)
    assert (explanation.certainty or 0.0) < 0.3
    told = set().union(set(), *(corpus.holds(term) for term in explanation.terms))
    assert len(told & set(fires)) / len(fires) < 0.5


def test_terms_read_as_written_and_say_where(corpus):
    assert corpus.explain(corpus.fires(RULES["bigram"])).text == '"United Nations" (at the firing token)'
    assert corpus.explain(corpus.fires(RULES["piece"])).text == '"-ing" (at the firing token)'
    assert corpus.explain(corpus.fires(RULES["after"])).text == 'after "Vulcan"'


def test_certainty_is_measured_on_examples_that_did_not_choose(corpus):
    """What the held examples alone hold is told, but nothing that they were not asked about counts for it."""
    fires = list(corpus.fires(RULES["word"]).items())[:40]
    order = np.random.default_rng((0, 7)).permutation(40)
    held = set(order[:12].tolist())
    strangers = list(corpus.fires(RULES["bigram"]).items())
    examples = [strangers[i] if i in held else fires[i] for i in range(40)]
    explanation = corpus.lexicon.explain(7, [Example(s, at, [1.0] * len(at)) for s, at in examples], 6)
    assert explanation.text == '"Vulcan", "United Nations" (at the firing token)'
    assert explanation.held == 12
    assert explanation.certainty == 0.0


def test_a_place_may_be_one_of_held_examples_alone(corpus):
    """Words stand before the firing token in a few examples only, all of which are set aside."""
    order = np.random.default_rng((0, 7)).permutation(40)
    held = set(order[:12].tolist())
    after = list(corpus.fires(RULES["after"]).items())
    fires = [after[i] if i in held else (i, [0]) for i in range(40)]
    examples = [Example(sentence, at, [1.0]) for sentence, at in fires]
    explanation = corpus.lexicon.explain(7, examples, 6)
    assert explanation.held == 12


def test_certainty_is_the_share_of_held_examples_against_the_corpus(corpus):
    vulcan = corpus.fires(RULES["word"])
    term = corpus.index.by_sentence.of(next(iter(vulcan)))
    names = {corpus.index.surface(int(t), next(iter(vulcan))): int(t) for t in term}
    held = [*list(vulcan)[:3], next(i for i in range(SENTENCES) if i not in vulcan)]
    assert corpus.lexicon.certainty([names["Vulcan"]], held) == pytest.approx(0.75 - len(vulcan) / SENTENCES)


def test_no_text_has_a_reason(corpus):
    few = corpus.explain({1: [0], 2: [0]})
    assert few.text is None
    assert few.certainty is None
    assert few.reason == "fires in 2 sentences, 6 are needed"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The U.N. met—again.", ["the", "u", ".", "n", ".", "met", "—", "again", "."]),
        ("L'École d'été, où ça?", ["l", "'", "école", "d", "'", "été", ",", "où", "ça", "?"]),
        ("¿Qué pasó en España?", ["¿", "qué", "pasó", "en", "españa", "?"]),
        ("Straße 42 x_y", ["strasse", "42", "x", "_", "y"]),
        ("", []),
    ],
)
def test_units_of_several_languages(text, expected):
    assert [unit.key for unit in units(text)] == expected
    assert all(text[unit.start : unit.end].casefold() == unit.key for unit in units(text))


def test_a_sentence_of_terms_names_each_place():
    terms = [
        Term(text, kind, 5.0, 1.0, 0.0) for text, kind in (("A", "at"), ("B", "before"), ("c", "about"), ("d", "about"))
    ]
    assert sentence_of(terms) == '"A" (at the firing token); after "B"; about: c, d'
