"""Latents that fire by a known rule: what explanations by terms say of tokens, on sentences they were not made from."""

from collections.abc import Callable

import numpy as np
import pytest

from monosem.interpret.codes import Codes
from monosem.interpret.firing_tokens import Example
from monosem.interpret.lexical import Explanation, Lexicon
from monosem.interpret.ngrams import TermIndex
from monosem.interpret.positions import RULES as POSITIONS
from monosem.interpret.positions import Background, stand
from monosem.interpret.score import token_score
from monosem.interpret.score.held_out import Text
from monosem.interpret.score.sample import Sample
from monosem.interpret.score.token_score import TokenScore

SENTENCES, RESERVED = 2400, 4
TOPIC = ("treaty", "посол", "sommet", "خارجية")
ALPHABETS = ("abcdefghijklmnop", "абвгдежзиклмнопр", "αβγδεζηθικλμνξοπ", "天地玄黄宇宙洪荒日月盈昃辰宿列张")


def sentences() -> list[list[str]]:
    """Zipf-distributed nonsense of four scripts, in which the rules' words are planted."""
    rng = np.random.default_rng(0)
    words = [ALPHABETS[i % 4][i // 4 % 16] + ALPHABETS[i % 4][i // 64] + ALPHABETS[i % 4][3] for i in range(1000)]
    share = 1 / np.arange(8, 1008)
    rows = [rng.choice(words, rng.integers(6, 17), p=share / share.sum()).tolist() for _ in range(SENTENCES)]
    for number, row in enumerate(rows):
        at = int(rng.integers(0, len(row) - 2))
        if number % 9 == 0:
            row[at : at + 2] = ["United", "Nations"]
        if number % 11 == 1:
            row[at] = "Вулкан"
        if number % 7 == 2:
            row[at] = TOPIC[number // 28 % len(TOPIC)]
        if number % 3 == 0:
            row[int(rng.integers(0, 2)) * (len(row) - 1)] = "Maybe"
    return rows


RULES: dict[str, Callable[[list[str], int], bool]] = {
    "word": lambda row, i: row[i] == "Вулкан",
    "bigram": lambda row, i: i > 0 and row[i - 1 : i + 1] == ["United", "Nations"],
    "topic": lambda row, i: row[i] in TOPIC,
    "after": lambda row, i: i > 0 and row[i - 1] == "Вулкан",
    "first": lambda _, i: i == 0,
    "third": lambda _, i: i == 2,
    "last": lambda row, i: i == len(row) - 1,
    "ends": lambda row, i: i in (0, len(row) - 1),
    "quarter": lambda row, i: 4 * i < len(row),
    "word at the beginning": lambda row, i: i == 0 and row[i] == "Maybe",
}
NAMES = list(RULES)
TOLD = {
    "word": '"Вулкан" (at the firing token)',
    "bigram": '"United Nations" (at the firing token)',
    "after": 'after "Вулкан"',
    "first": "at the first token of the sentence",
    "third": "at the token 3 of the sentence",
    "last": "at the last token of the sentence",
    "ends": "at the first token of the sentence, the last token of the sentence",
    "quarter": "at the first quarter of the sentence",
    "word at the beginning": '"Maybe" (at the firing token); only at the first token of the sentence',
}


def planted(rows: list[list[str]], shuffled: bool) -> Sample:
    """A latent for each rule; shuffled, it fires as often in the same sentences, at any of their tokens."""
    rng = np.random.default_rng(1)
    places = [(s, i) for s, row in enumerate(rows) for i in range(len(row))]
    values = np.zeros((len(places), len(RULES)), dtype=np.float32)
    for column, rule in enumerate(RULES.values()):
        fires = np.array([rule(rows[s], i) for s, i in places])
        if shuffled:
            fires = rng.permutation(fires)
        values[fires, column] = rng.uniform(1, 2, fires.sum())
    sentence, position = (np.array(column) for column in zip(*places, strict=True))
    indices = np.tile(np.arange(len(RULES)), (len(places), 1))
    ids = [np.zeros(len(row), dtype=np.int64) for row in rows]
    codes = Codes.of(values, indices, sentence, position, np.zeros(len(places), dtype=np.int64))
    return Sample(len(RULES), np.arange(len(rows)), ids, iter([codes]))


def texts_of(rows: list[list[str]]) -> list[Text]:
    found = []
    for number, row in enumerate(rows):
        ends = np.cumsum([len(word) + 1 for word in row]) - 1
        found.append(Text(number, " ".join(row), np.append(0, ends[:-1]).tolist(), ends.tolist(), [0] * len(row), []))
    return found


def explained(sample: Sample, texts: list[Text], reserved: np.ndarray) -> dict[int, Explanation]:
    """Of each latent, from up to fifty sentences that are not reserved."""
    seen = np.flatnonzero(~reserved)
    index = TermIndex.build([texts[i].text for i in seen], [(texts[i].starts, texts[i].ends) for i in seen])
    lexicon, number = Lexicon(index, np.ones(len(seen), bool), seed=0), {s: i for i, s in enumerate(seen.tolist())}
    found = {}
    for latent in range(sample.n):
        place, value = sample.firings(latent)
        of = sample.of_place[place]
        inside = [s for s in np.unique(of).tolist() if s in number][:50]
        at = place - sample.places.offsets[of]
        examples = [Example(number[s], at[of == s].tolist(), value[of == s].tolist()) for s in inside]
        found[latent] = lexicon.explain(latent, examples, most=6)
    return found


def graded(shuffled: bool) -> tuple[dict[int, Explanation], TokenScore]:
    rows = sentences()
    texts, reserved = texts_of(rows), np.arange(len(rows)) % RESERVED == 0
    learnt = explained(planted(rows, shuffled), texts, reserved)
    told = {latent: [term._asdict() for term in one.terms] for latent, one in learnt.items() if one.terms}
    return learnt, token_score.of_terms(planted(rows, False), texts, reserved, told, shuffles=9, seed=0)


@pytest.fixture(scope="module")
def own() -> tuple[dict[int, Explanation], TokenScore]:
    return graded(shuffled=False)


@pytest.fixture(scope="module")
def control() -> tuple[dict[int, Explanation], TokenScore]:
    return graded(shuffled=True)


@pytest.mark.parametrize("rule", NAMES)
def test_a_planted_rule_is_recovered_and_other_explanations_do_not(own, rule):
    learnt, score = own
    explanation = learnt[NAMES.index(rule)]
    assert explanation.text == TOLD.get(rule, explanation.text)
    rows = {row.figure: row for row in score.judge(NAMES.index(rule))}
    assert rows["precision"].value >= 0.9, explanation
    assert rows["recall"].value >= 0.9, explanation
    assert rows["f1"].beats
    assert explanation.certainty >= 0.65  # a quarter of all tokens is a quarter of them by chance


@pytest.mark.parametrize("rule", NAMES)
def test_a_shuffled_control_is_not(control, rule):
    learnt, score = control
    explanation = learnt[NAMES.index(rule)]
    assert (explanation.certainty or 0.0) < 0.3
    assert not any(term.kind == "position" for term in explanation.terms)
    f1 = [row.value for row in score.judge(NAMES.index(rule)) if row.figure == "f1"]
    assert max(f1, default=0.0) < 0.2, explanation


def test_every_position_is_read_back_as_it_is_told():
    """A latent that fires by a rule of positions is told by its name, and the name says the same tokens."""
    lengths = np.random.default_rng(2).integers(10, 40, 300)
    offsets = np.append(0, np.cumsum(lengths))
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    length = np.repeat(lengths, lengths)
    background = Background(lengths)
    for name, rule in POSITIONS.items():
        fires = rule(position, length)
        (found,) = background.choose(position[fires], length[fires])
        assert found.name == name
        assert found.share == 1
        assert found.corpus_share == pytest.approx(fires.mean())
        assert (stand([found.name], position, length) == fires).all()
        assert background.gain([name], position, length) == pytest.approx(0)
