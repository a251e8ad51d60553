"""Cards and search over the files of a small run written by hand."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from monosem.errors import RunError, SaeError
from monosem.interpret import cards, search, selection, tables, terminal
from monosem.interpret.codes import Codes
from monosem.interpret.collect import Collector, Plan
from monosem.recipe import ExamplesRecipe

TEXTS = ["The École opened.", "<b>Rain</b> fell & fell.", "An eagle [red] flew.", "Écoles and eagles."]
SPANS = [
    [(0, 3), (3, 9), (9, 16), (16, 17)],
    [(0, 3), (3, 7), (7, 11), (11, 24)],
    [(0, 2), (2, 8), (8, 20)],
    [(0, 6), (6, 18)],
]
SAID = [
    {
        "latent": 0,
        "explanation": '"École" (at the firing token)',
        "certainty": 0.9,
        "provider": "lexical",
        "reason": None,
    },
    {"latent": 1, "explanation": "about: weather", "certainty": 0.05, "provider": "lexical", "reason": None},
    {"latent": 2, "explanation": None, "certainty": None, "provider": "lexical", "reason": "dead: it never fires"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Latent 0 fires on sentences 0, 3; latent 1 on nearly every token; latent 2 never."""
    sentence = np.repeat(np.arange(4), [len(spans) for spans in SPANS])
    position = np.concatenate([np.arange(len(spans)) for spans in SPANS]).astype(np.int32)
    values = np.zeros((len(sentence), 2), dtype=np.float32)
    values[[1, 11], 0] = [4.0, 2.0]
    values[:, 1] = np.linspace(1, 2, len(sentence))
    collector = Collector(3, Plan(50, ("mean", "last", "max")))
    collector.add(Codes.of(values, np.tile([0, 1], (len(sentence), 1)), sentence, position, position))
    examples = tmp_path / "examples"
    examples.mkdir()
    pieces = selection.chosen(collector, ExamplesRecipe(quantiles=0, random=0))
    tables.write_by_latent(examples / tables.EXAMPLES, pieces, tables.EXAMPLES_SCHEMA)
    columns = {
        "sentence": list(range(4)),
        "document": [0] * 4,
        "title": ["School", None, "Birds", "Both"],
        "label": [None] * 4,
        "text": TEXTS,
        "test": [False] * 4,
        "tokens": [[]] * 4,
        "missing": [[]] * 4,
        "starts": [[start for start, _ in spans] for spans in SPANS],
        "ends": [[end for _, end in spans] for spans in SPANS],
    }
    tables.write_sentences(examples / tables.SENTENCES, iter([pa.table(columns)]))
    tables.write_latents(examples / tables.LATENTS, collector)
    (tmp_path / "explanations").mkdir()
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in SAID)
    (tmp_path / "explanations" / cards.EXPLANATIONS).write_text(lines, encoding="utf-8")
    (tmp_path / "evaluation").mkdir()
    output = {
        "latent": pa.array([0, 1], pa.int32()),
        "output_score": [0.5, 0.1],
        "raised": [[" a"], []],
        "lowered": [["\n"], []],
    }
    pq.write_table(pa.table(output), tmp_path / "evaluation" / "latents.parquet")
    return tmp_path


def test_a_card_holds_what_the_files_say(folder: Path):
    card = cards.card(folder, 0)
    assert (card.latent, card.n, card.explanation, card.certainty) == (0, 3, '"École" (at the firing token)', 0.9)
    assert (card.fire_count, card.sentence_count, card.max, card.mean) == (2, 2, 4.0, 3.0)
    assert card.density == 2 / 13
    assert (card.output_score, card.raised, card.lowered) == (0.5, [" a"], ["\n"])
    best = card.examples["max"][0]
    assert (best.sentence, best.value, best.title, best.label) == (0, 4.0, "School", "")
    assert [(best.text[token.start : token.end], token.value) for token in best.tokens] == [("École", 4.0)]
    assert [example.sentence for example in card.examples["max"]] == [0, 3]
    assert [(example.sentence, example.value) for example in card.examples["mean"]] == [(0, 1.0), (3, 1.0)]
    assert "last" not in card.examples
    assert "dense: it fires on 15 % of all tokens" in card.warnings


def test_warnings_of_weak_and_dead_latents(folder: Path):
    weak, dead = cards.cards(folder, [1, 2])
    assert weak.warnings[-1].startswith("weak")
    assert dead.warnings == ["dead: it never fires on the stored activations"]
    assert (dead.explanation, dead.reason, dead.examples, dead.output_score) == (None, "dead: it never fires", {}, None)


def test_cards_come_in_the_order_asked_for_and_are_cut(folder: Path):
    found = cards.cards(folder, [2, 0, 1], most=1)
    assert [card.latent for card in found] == [2, 0, 1]
    assert found[1] == cards.card(folder, 0)._replace(
        examples={name: examples[:1] for name, examples in cards.card(folder, 0).examples.items()}
    )


@pytest.mark.parametrize("latent", [-1, 3, 10**12])
def test_a_latent_out_of_range_names_the_range(folder: Path, latent: int):
    with pytest.raises(SaeError, match=rf"latent {latent} is out of range: .* has latents 0 to 2"):
        cards.card(folder, latent)


def test_later_stages_may_be_missing(folder: Path):
    (folder / "explanations" / cards.EXPLANATIONS).unlink()
    (folder / "evaluation" / "latents.parquet").unlink()
    card = cards.card(folder, 0)
    assert (card.explanation, card.raised) == (None, [])
    assert "monosem explain" in (card.reason or "")


def test_a_damaged_file_is_named(folder: Path):
    (folder / "examples" / tables.EXAMPLES).write_bytes(b"PAR1 not really")
    with pytest.raises(RunError, match=r"examples\.parquet: damaged .*--redo examples"):
        cards.card(folder, 0)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ecole", [0, 1]),  # no accent, in the explanation of 0
        ("ÉCOLE", [0, 1]),
        ("eagle", [0, 1]),  # beginning of "eagles"; half of the sentences of 0 hold it, and half of those of 1
        ("école eagles", [0, 1]),
        ("weather", [1]),
        ("agle", []),
        ("  ", []),
        ("rain", [1]),
    ],
)
def test_search_is_blind_to_case_and_accents(folder: Path, words: str, expected: list[int]):
    assert [hit.latent for hit in search.find(folder, words)] == expected


def test_search_ranks_explanations_first_and_is_cut(folder: Path):
    first, second = search.find(folder, "ecole")
    assert (first.in_explanation, first.sentences, first.share) == (True, 2, 1.0)
    assert (second.in_explanation, second.sentences, second.share) == (False, 2, 0.5)
    assert len(search.find(folder, "ecole", limit=1)) == 1


def test_the_terminal_shows_texts_as_they_are(folder: Path):
    console = Console(width=100, record=True, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    console.print(terminal.show_card(cards.card(folder, 1)))
    console.print(terminal.show_hits(search.find(folder, "ecole")))
    styled, text = console.export_text(clear=False, styles=True), console.export_text()
    assert "<b>Rain</b> fell & fell." in text
    assert "An eagle [red] flew." in text, "brackets are no markup"
    assert "fires on 100 % of tokens" in text
    assert '"École" (at the firing token)' in text
    assert "48;2;" in styled, "heat is a background colour"


def test_white_space_of_tokens_is_visible():
    shown = {
        " a b": "␣a b",
        "\n\n": "↵↵",
        "\t": "⇥",
        "x ": "x ",
        "\n   \n": "↵␣␣␣↵",
        " " * 12 + "x": "␣\N{MULTIPLICATION SIGN}12x",
    }
    shown |= {"\n" + "\t" * 19: "↵⇥\N{MULTIPLICATION SIGN}19", "\xa0": "<U+00A0>", "\x0b": "<U+000B>", "": ""}
    assert {token: cards.visible(token) for token in shown} == shown
