"""Latents that fire by a known rule: N2G recovers the rule on reserved sentences; patterns of others do not."""

import numpy as np
import pytest

from monosem.interpret.codes import Codes
from monosem.interpret.score import token_score
from monosem.interpret.score.n2g import Found, Learner, compare
from monosem.interpret.score.places import END, NOWHERE, START, Pattern, Places
from monosem.interpret.score.sample import Sample, evenly
from monosem.interpret.score.token_score import TokenScore

WORDS = 400
VULCAN, UNITED, NATIONS = 3, 7, 11
TOPIC = (301, 303, 307, 311, 313, 317)


def sentences(count: int = 3000, seed: int = 0) -> list[list[int]]:
    """Zipf-distributed tokens, in which those of the rules are planted."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(20, WORDS + 20)
    drawn = rng.choice(WORDS, size=(count, 14), p=share / share.sum())
    ids = [row[: rng.integers(6, 15)].tolist() for row in drawn]
    for number, row in enumerate(ids):
        at = int(rng.integers(0, len(row) - 2))
        if number % 9 == 0:
            row[at : at + 2] = [UNITED, NATIONS]
        if number % 11 == 1:
            row[at] = VULCAN
        if number % 7 == 2:
            row[at : at + 2] = rng.choice(TOPIC, size=2, replace=False).tolist()
    return ids


RULES = {
    "word": lambda row, i: row[i] == VULCAN,
    "bigram": lambda row, i: i > 0 and row[i - 1 : i + 1] == [UNITED, NATIONS],
    "topic": lambda row, i: row[i] in TOPIC,
    "after": lambda row, i: i > 0 and row[i - 1] == VULCAN,
    "first": lambda _, i: i == 0,
    "position": lambda _, i: i == 1,
    "fifth": lambda _, i: i == 4,
    "last": lambda row, i: i == len(row) - 1,
    "third from the end": lambda row, i: i == len(row) - 3,
}
NAMES = list(RULES)


def planted(ids: list[list[int]], noise: int = 0) -> Sample:
    """A latent for each rule; its values vary. With `noise`, so many latents more that fire anywhere."""
    rng = np.random.default_rng(1)
    rows = [(s, i) for s, row in enumerate(ids) for i in range(len(row))]
    values = np.zeros((len(rows), len(RULES) + noise), dtype=np.float32)
    for column, rule in enumerate(RULES.values()):
        fires = np.array([rule(ids[s], i) for s, i in rows])
        values[fires, column] = rng.uniform(1, 2, fires.sum())
    for column in range(len(RULES), values.shape[1]):
        values[rng.random(len(rows)) < 0.02, column] = 1.0
    indices = np.tile(np.arange(values.shape[1]), (len(rows), 1))
    sentence, position = (np.array(column) for column in zip(*rows, strict=True))
    codes = Codes.of(values, indices, sentence, position, np.concatenate(ids))
    return Sample(values.shape[1], np.arange(len(ids)), ids, iter([codes]))


@pytest.fixture(scope="module")
def graded() -> tuple[Sample, TokenScore, dict]:
    sample = planted(sentences(), noise=15)
    reserved = np.arange(len(sample)) % 4 == 0
    learner = Learner(sample, reserved)
    patterns = {latent: learner.learn(latent) for latent in range(sample.n)}
    return sample, token_score.of_patterns(sample, reserved, patterns, shuffles=15, seed=0), patterns


@pytest.mark.parametrize("rule", NAMES)
def test_a_planted_rule_is_recovered_and_shuffled_patterns_do_not(graded, rule):
    _, score, _ = graded
    rows = {row.figure: row for row in score.judge(NAMES.index(rule))}
    assert rows["precision"].value >= 0.9
    assert rows["recall"].value >= 0.9
    assert rows["recall_strong"].value >= 0.9
    assert rows["f1"].beats
    shuffled = rows["f1"].shuffled
    assert shuffled is not None
    assert shuffled < 0.2


def test_a_latent_that_fires_anywhere_has_no_patterns_worth_the_name(graded):
    _, score, _ = graded
    f1 = [
        row.value for latent in range(len(NAMES), len(NAMES) + 15) for row in score.judge(latent) if row.figure == "f1"
    ]
    assert len(f1) == 15
    assert np.mean(f1) < 0.1


def test_the_frequency_baseline_is_the_commonest_token(graded):
    _, score, _ = graded
    by_rule = {rule: {row.figure: row for row in score.judge(NAMES.index(rule))} for rule in NAMES}
    assert by_rule["word"]["f1"].frequency == 1.0
    frequency = by_rule["bigram"]["precision"].frequency
    assert frequency is not None
    assert frequency < by_rule["bigram"]["precision"].value


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("word", (VULCAN,)),
        ("bigram", (UNITED, NATIONS)),
        ("after", (VULCAN, None)),
        ("first", (START, None)),
        ("position", (START, None, None)),
        ("fifth", (START, None, None, None, None, None)),
        ("last", (None, END)),
        ("third from the end", (None, None, None, END)),
    ],
)
def test_patterns_read_as_the_rule(graded, rule, expected):
    _, _, patterns = graded
    assert patterns[NAMES.index(rule)].best[0].tokens == expected


def test_patterns_come_from_sentences_that_are_not_reserved():
    """A word that fires only in reserved sentences leaves no pattern."""
    ids = [[1, 2, 3], [4, 5, 6], [1, 9, 3], [4, 9, 6]]
    fires = {(2, 1), (3, 1)}
    rows = [(s, i) for s in range(4) for i in range(3)]
    values = np.array([[float((s, i) in fires)] for s, i in rows])
    sentence, position = (np.array(column) for column in zip(*rows, strict=True))
    sample = Sample(
        1, np.arange(4), ids, iter([Codes.of(values, np.zeros((12, 1), int), sentence, position, position)])
    )
    reserved = np.array([False, False, True, True])
    assert Learner(sample, reserved).learn(0).count == 0
    assert Learner(sample, ~reserved).learn(0).best[0].tokens == (9,)


def test_places_find_patterns_as_a_plain_search_does():
    rng = np.random.default_rng(3)
    ids = [rng.integers(0, 4, rng.integers(1, 7)).tolist() for _ in range(60)]
    offsets = np.append(0, np.cumsum([len(row) for row in ids]))
    places = Places(np.concatenate(ids), offsets)
    for d in range(1, 4):
        ends = [start + len(row) - d for row, start in zip(ids, offsets, strict=False) if len(row) >= d]
        assert places.find([Pattern((*[None] * d, END), 1.0, 1)]).tolist() == ends
    choices = [None, 0, 1, 2, 3, START]
    for _ in range(200):
        body = [choices[i] for i in rng.integers(0, 5, rng.integers(1, 4))]
        if rng.random() < 0.3:
            body.insert(0, START)
        if all(token is None for token in body):
            continue
        pattern = Pattern(tuple(body), 1.0, 1)
        expected = []
        for row, start in zip(ids, offsets, strict=False):
            padded = [NOWHERE] * 5 + [START, *row]
            for i in range(len(row)):
                window = padded[6 + i - len(body) + 1 : 6 + i + 1]
                if all(token is None or token == here for token, here in zip(body, window, strict=True)):
                    expected.append(start + i)
        assert places.find([pattern]).tolist() == expected, body


def test_counts_become_precision_recall_and_f1():
    found = compare(np.array([1, 2, 5]), np.array([2, 5, 7, 9]))
    assert float(found.precision) == pytest.approx(2 / 3)
    assert float(found.recall) == pytest.approx(0.5)
    assert float(found.f1) == pytest.approx(4 / 7)
    nothing = Found(np.asarray(0), np.asarray(0), np.asarray(0))
    assert np.isnan(nothing.recall)
    assert np.isnan(nothing.f1)
    assert float(nothing.precision) == 0


@pytest.mark.parametrize(("size", "count", "expected"), [(10, 3, [0, 3, 6]), (2, 5, [0, 1]), (0, 3, []), (4, 0, [])])
def test_numbers_are_spread_evenly(size, count, expected):
    assert evenly(size, count).tolist() == expected
