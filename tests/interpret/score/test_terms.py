"""Explanations by terms as detectors, figures against plain computations, and the table of scores."""

import itertools

import numpy as np
import pytest

from monosem.interpret.score import measures, rows
from monosem.interpret.score.detection import Detection, deciles
from monosem.interpret.score.held_out import Reserved, Shown, Text
from monosem.interpret.score.output_meaning import contrast
from monosem.interpret.score.rows import Row
from monosem.interpret.score.terms import Vocabulary

WORDS = [f"word{i}" for i in range(12)]
FILLER = ["one", "two", "three", "four", "five", "six", "seven"]


def text(number: int, words: list[str]) -> Text:
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    return Text(number, " ".join(words), np.append(0, ends[:-1]).tolist(), ends.tolist(), [0] * len(words), [])


def planted(latents: int = 12, sentences: int = 40) -> tuple[list[Reserved], dict[int, Text]]:
    """Latent i fires in sentences with word i, also as a part of "word i then"."""
    rng = np.random.default_rng(0)
    tests, texts = [], {}
    for latent in range(latents):
        shown = []
        for i in range(2 * sentences):
            firing = i < sentences
            words = rng.choice(FILLER, rng.integers(4, 9)).tolist()
            words[1] = WORDS[latent] if firing else WORDS[(latent + 1 + i % 11) % 12]
            number = 1000 * latent + i
            texts[number] = text(number, words)
            shown.append(Shown(number, "firing" if firing else "silent", float(1 + i) * firing))
        tests.append(Reserved(latent, shown))
    return tests, texts


def test_the_right_term_detects_and_others_do_not():
    tests, texts = planted()
    detection = Detection("lexical", {i: {WORDS[i].upper(): 2.0} for i in range(12)}, texts, shuffles=10, seed=0)
    for test in tests:
        found = {row.figure: row for row in detection.judge(test)}
        assert found["balanced_accuracy"].value == found["auroc"].value == found["f1"].value == 1.0
        assert found["balanced_accuracy"].shuffled == pytest.approx(0.45, abs=0.06)
        assert found["balanced_accuracy"].beats
        assert found["auroc"].frequency == pytest.approx(0.5, abs=0.2)
        assert [found[f"decile_{i:02d}"].value for i in range(1, 11)] == [1.0] * 10


def test_a_wrong_term_is_shown_below_chance():
    tests, texts = planted()
    wrong = {i: dict.fromkeys([WORDS[(i + k) % 12] for k in (1, 2, 3)], 1.0) for i in range(12)}
    found = [row for test in tests for row in Detection("lexical", wrong, texts, 10, 0).judge(test)]
    accuracy = [row for row in found if row.figure == "balanced_accuracy"]
    assert all(row.below_chance and not row.beats for row in accuracy)
    assert rows.aggregate(found, 0)["lexical"]["balanced_accuracy"]["below_chance"] == 12


def test_hard_negatives_have_a_figure_of_their_own():
    (test, *_), texts = planted()
    hard = [Shown(900_000 + i, "hard", 0.0) for i in range(10)]
    texts |= {one.sentence: text(one.sentence, ["two", WORDS[0], "two"]) for one in hard}
    detection = Detection("lexical", {0: {WORDS[0]: 1.0}}, texts, 10, 0)
    found = {row.figure: row.value for row in detection.judge(Reserved(0, [*test.shown, *hard]))}
    assert found["balanced_accuracy"] == 1.0
    assert found["hard"] == 0.5


@pytest.mark.parametrize("terms", [{}, {5: {"x": 1.0}}])
def test_a_latent_without_terms_or_sentences_has_no_score(terms):
    tests, texts = planted()
    assert Detection("lexical", terms, texts, 10, 0).judge(tests[0]) == []
    assert Detection("lexical", {0: {"x": 1.0}}, texts, 10, 0).judge(Reserved(0, tests[0].shown[:41])) == []


@pytest.mark.parametrize(
    ("term", "held"),
    [
        ("United Nations", True),
        ("united  nations", True),
        ("Nations United", False),
        ("of the United", True),
        ("-ing", True),
        ("meet-", True),
        ("ing", False),
        ("-eeting", False),
        (".", True),
        ("-", False),
    ],
)
def test_terms_are_found_as_explanations_write_them(term, held):
    sentence = "A meeting of the United Nations."
    starts, ends = [0, 1, 6, 9, 12, 16, 23, 31], [1, 6, 9, 12, 16, 23, 31, 32]
    vocabulary = Vocabulary([term])
    assert vocabulary.held(sentence, starts, ends) == ({0} if held else set())
    assert vocabulary.holdings([(sentence, starts, ends)]).sum() == held


def test_figures_against_plain_computations():
    rng = np.random.default_rng(0)
    score, firing = rng.integers(0, 4, (3, 30)).astype(float), rng.random(30) < 0.4
    for row, area in zip(score, measures.auroc(score, firing), strict=True):
        pairs = list(itertools.product(row[firing], row[~firing]))
        assert area == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))
    said = score > 1
    expected = (said[:, firing].mean(1) + (~said[:, ~firing]).mean(1)) / 2
    np.testing.assert_allclose(measures.balanced_accuracy(said, firing), expected)
    assert np.isnan(measures.auroc(score, np.ones(30, bool))).all()
    a, b = rng.normal(size=50), rng.normal(size=50)
    assert measures.pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert measures.pearson(a, np.ones(50)) == 0
    assert measures.explained(a, np.zeros(50)) == pytest.approx(0)
    assert measures.explained(a, a) == 1.0
    assert measures.high(np.arange(100.0)) == 94
    assert measures.high(np.array([3.0])) == 3


def test_an_interval_of_a_mean_is_as_wide_as_its_standard_error():
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    low, high = measures.mean_interval(values, seed=1)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    assert measures.mean_interval(values, seed=1) == (low, high)


def test_deciles_go_from_weak_to_strong():
    found = deciles(0, "lexical", np.arange(20) >= 10, np.arange(20.0))
    assert [row.value for row in found] == [0.0] * 5 + [1.0] * 5
    assert [row.figure for row in deciles(0, "x", np.ones(2, bool), np.ones(2))] == ["decile_05", "decile_10"]


def test_the_table_is_read_by_latent_and_added_up(tmp_path):
    written = [
        Row(latent, "lexical", "auroc", 0.4 + 0.1 * latent, shuffled=0.5, shuffled_p95=0.55, chance=0.5)
        for latent in range(5)
    ]
    path = tmp_path / rows.SCORES
    assert rows.write(path, [*reversed(written), Row(2, "n2g", "f1", float("nan"))]) == 5
    assert [row.latent for row in rows.read(path)] == [0, 1, 2, 3, 4]
    (row,) = rows.read(path, [3])
    assert row.value == pytest.approx(0.7)
    assert row.low is None
    figure = rows.aggregate(rows.read(path), seed=0)["lexical"]["auroc"]
    assert figure["mean"] == pytest.approx(0.6)
    assert figure["low"] <= 0.6 <= figure["high"]
    assert (figure["latents"], figure["beat_shuffled_p95"], figure["below_chance"]) == (5, 3, 1)
    assert figure["shuffled"] == pytest.approx(0.5)
    assert "frequency" not in figure


def test_words_that_steering_brings_in_are_found():
    steered = ["The treaty was signed by envoys.", "A treaty and the envoys.", "Envoys signed the treaty."]
    others = ["The road was long.", "A dog and the cat.", "It was the end."] * 6
    assert contrast(steered, others, 3)[:2] == ["envoys", "treaty"]
    assert contrast(["the the"], ["the"], 3) == []
