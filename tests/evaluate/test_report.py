"""The page: safe, self-contained, the same bytes for the same run, and honest about what is missing."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monosem.charts import MOST_POINTS, Curve, line_chart
from monosem.evaluate import report
from monosem.evaluate.report_metrics import metric_tables
from monosem.interpret import selection, tables
from monosem.interpret.codes import Codes
from monosem.interpret.collect import Collector, Plan
from monosem.recipe import CorpusRecipe, ExamplesRecipe, ModelRecipe, Recipe, ReportRecipe

N, TOKENS = 400, 8
EVIL = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> & \u2028 'quotes\""
STEERED = 77
EVALUATION = {
    "fvu": 0.1791,
    "n_tokens": 12345,
    "brand_new": 0.5,
    "dead_fraction": 0.01,
    "ce_sae": None,
    "density_histogram": {"counts": [1, 2]},
    "all_tokens": {"fvu": 0.02},
    "baselines": {"random_sae": {"fvu": 0.71, "ce": 5.25}, "pca": {"fvu": 0.45, "components": 32}},
    "steering": {
        "wins": 1,
        "of": 1,
        "latents": [
            {"latent": STEERED, "factor": 12.5, "top_tokens": [EVIL], "sample_plain": "x", "sample_steered": EVIL}
        ],
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """400 latents with random firings on 60 sentences, one of them hostile."""
    rng = np.random.default_rng(0)
    sentence = np.repeat(np.arange(60), TOKENS)
    position = np.tile(np.arange(TOKENS), 60).astype(np.int32)
    indices = (rng.random((len(sentence), 6)) ** 2 * (N - 10)).astype(np.int64)
    indices = np.where(np.sort(indices, 1)[:, :1] == indices, STEERED, indices)
    collector = Collector(N, Plan(5, ("mean", "last", "max")))
    collector.add(Codes.of(rng.random(indices.shape, dtype=np.float32), indices, sentence, position, position))
    (tmp_path / "examples").mkdir()
    pieces = selection.chosen(collector, ExamplesRecipe(quantiles=0, random=0))
    tables.write_by_latent(tmp_path / "examples" / tables.EXAMPLES, pieces, tables.EXAMPLES_SCHEMA)
    columns = {
        "sentence": np.arange(60),
        "document": np.arange(60),
        "title": [EVIL] * 60,
        "label": ["label"] * 60,
        "text": [f"{i} {EVIL}" for i in range(60)],
        "test": [False] * 60,
        "tokens": [[]] * 60,
        "missing": [[]] * 60,
        "starts": [[3 * t for t in range(TOKENS)]] * 60,
        "ends": [[3 * t + 3 for t in range(TOKENS)]] * 60,
    }
    tables.write_sentences(tmp_path / "examples" / tables.SENTENCES, iter([pa.table(columns)]))
    tables.write_latents(tmp_path / "examples" / tables.LATENTS, collector)
    (tmp_path / "explanations").mkdir()
    said = [{"latent": i, "explanation": f"{EVIL} {i}", "certainty": i / N, "provider": "lexical"} for i in range(N)]
    (tmp_path / "explanations" / "explanations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "evaluation.json").write_text(json.dumps(EVALUATION))
    steps = [{"step": i, "loss": 1 / i, "fvu": 1 / i, "dead": 3, "lr": 1e-3} for i in range(1, 1001)]
    steps[500]["validation_fvu"] = 0.2
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    return tmp_path


RECIPE = Recipe(name="page", report=ReportRecipe(latents=50, sentences=3))


class Page(HTMLParser):
    """Elements with their attributes, and the text of scripts and of the rest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = "" if tag in ("script", "style") else self._open

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.text += data

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    @property
    def cards(self) -> list[dict]:
        return json.loads(self.scripts[0])


def test_the_same_run_gives_the_same_bytes(folder: Path):
    assert report.render(folder, RECIPE) == report.render(folder, RECIPE)


def test_no_request_leaves_the_page(folder: Path):
    page = Page(report.render(folder, RECIPE))
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base"), tag
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    style = (report.ASSETS / "report.css").read_text()
    assert "url(" not in style
    assert "@import" not in style
    assert ("meta", "default-src 'none'") in [(tag, a.get("content", "").split(";")[0]) for tag, a in page.elements]


def test_texts_show_as_text(folder: Path):
    page = Page(report.render(folder, RECIPE))
    assert len(page.scripts) == 2, "the data and the page's own script, none out of a text"
    assert EVIL in page.text, "the steering sample reads as it was written"
    card = page.cards[0]
    assert card["explanation"] == f"{EVIL} {card['latent']}"
    example = card["examples"]["max"][0]
    text = "".join(piece if isinstance(piece, str) else piece[0] for piece in example["pieces"])
    assert re.fullmatch(r"\d+ " + re.escape(EVIL), text)
    assert example["origin"] == f"{EVIL} · label"
    script = (report.ASSETS / "report.js").read_text()
    assert "innerHTML" not in script
    assert "insertAdjacentHTML" not in script


def test_ids_are_unique_and_labels_lead_somewhere(folder: Path):
    page = Page(report.render(folder, RECIPE))
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, ids[0]) in ids
        target = attributes.get("href", "")
        assert not target.startswith("#") or target[1:] in ids or re.fullmatch(r"#latent-\d+", target)


def test_cards_are_live_spread_and_hold_the_steered(folder: Path):
    cards = Page(report.render(folder, RECIPE)).cards
    shown = [card["latent"] for card in cards]
    density = pq.read_table(folder / "examples" / tables.LATENTS)["density"].to_numpy()
    assert len(shown) == 50 == len(set(shown))
    assert STEERED in shown
    assert all(density[latent] > 0 for latent in shown)
    live = np.flatnonzero(density > 0)
    ranks = np.searchsorted(np.sort(density[live]), density[shown])
    quarters = np.histogram(ranks, bins=4, range=(0, len(live)))[0]
    assert quarters.min() >= 5, quarters
    certainty = [card["certainty"] for card in cards]
    assert min(certainty) < 0.2
    assert max(certainty) > 0.8
    assert all(len(examples) <= 3 for card in cards for examples in card["examples"].values())


def test_fewer_live_latents_than_cards(folder: Path):
    many = RECIPE.model_copy(update={"report": ReportRecipe(latents=10_000, sentences=1)})
    shown = [card["latent"] for card in Page(report.render(folder, many)).cards]
    density = pq.read_table(folder / "examples" / tables.LATENTS)["density"].to_numpy()
    assert shown == np.flatnonzero(density > 0).tolist()


def test_figures_stand_beside_their_baselines():
    tables = {table.title: table for table in metric_tables(EVALUATION)}
    reconstruction = tables["Reconstruction"]
    assert reconstruction.columns == ["SAE", "random SAE", "PCA", "all tokens"]
    rows = {row.key: row for row in reconstruction.rows}
    assert rows["fvu"].cells == ["0.179", "0.710", "0.450", "0.020"]
    assert rows["fvu"].definition.startswith("Fraction of variance unexplained")
    model = {row.key: row for row in tables["Language model"].rows}
    assert model["ce_sae"].cells == ["", "5.250"], "a baseline's own loss; the SAE's was not measured"
    assert model["n_tokens"].cells == ["12,345", ""]
    assert tables["Others"].rows[0].label == "brand new"
    assert metric_tables({}) == []


def test_no_path_of_this_machine_is_shown(folder: Path):
    local = RECIPE.model_copy(
        update={
            "model": ModelRecipe(source="/home/someone/models/tiny"),
            "corpus": CorpusRecipe(sources=("hf:org/text",)),
        }
    )
    page = Page(report.render(folder, local))
    assert "someone" not in page.text
    assert "tiny, on hf:org/text" in page.text


def test_what_is_missing_is_left_out(folder: Path):
    whole = report.render(folder, RECIPE)
    assert all(f'id="{name}"' in whole for name in ("metrics", "training", "steering", "latents"))
    (folder / "evaluation" / "evaluation.json").unlink()
    (folder / "metrics.jsonl").unlink()
    (folder / "explanations" / "explanations.jsonl").unlink()
    page = Page(report.render(folder, RECIPE))
    assert not {"metrics", "steering"} & set(page.ids())
    assert [a["aria-label"].split()[0] for tag, a in page.elements if a.get("role") == "img"] == ["Histogram"]
    assert all("not explained" in card["reason"] for card in page.cards)


def test_charts_follow_the_page_and_stay_small():
    steps = list(range(100_000))
    chart = line_chart("loss", "Loss", [Curve("train", steps, [1.0 / (step + 1) for step in steps])])
    assert "var(--line-1)" in chart.svg
    assert "currentColor" in chart.svg
    assert not re.search(r"#[0-9a-f]{6}\b", chart.svg), "no colour of its own"
    assert "font-family" not in chart.svg
    assert len(chart.svg) < 100 * MOST_POINTS
    assert chart.alt == "Loss over training steps: train ends at 1e-05."
