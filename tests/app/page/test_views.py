"""Whatever a model, a corpus or a person wrote stays text; figures stand where they should."""

import json
import os
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from page_run import N, page_run, relations, tracking

from monosem.app.page import annotations
from monosem.app.page.desk import Desk, Exchange, Text
from monosem.app.page.drawing import Line, bar_chart, line_chart
from monosem.app.page.explore_views import card_view, hits_view
from monosem.app.page.library import Library
from monosem.app.page.playground_views import Steered, steering_view, texts_view
from monosem.app.page.render import message, render, short
from monosem.app.page.searching import Query
from monosem.app.page.token_views import chips, in_text, ranking_view, summary_view, text_view
from monosem.app.page.tracks import Tracks
from monosem.app.page.training_views import copied, rates, read_metrics, stamp, training_view
from monosem.completion import ActiveLatent, WrittenToken
from monosem.run import Manifest

EVIL = "</p><script>alert(1)</script><img src=x onerror=alert(2)>\" ' & **bold** [x](javascript:1) {{7*7}} ${7*7}"


class Page(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def harmless(html: str) -> Page:
    """The page; nothing in it came to life."""
    page = Page(html)
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
    for attributes in page.all("a"):
        assert attributes["href"].startswith("?run=")
    return page


@pytest.fixture
def library(tmp_path: Path) -> Library:
    run = page_run(tmp_path / "run", evil=EVIL)
    relations(run.path, EVIL)
    annotations.add(run.path / annotations.ANNOTATIONS, 5, EVIL, "partly")
    return Library([run.path])


def latent(number: int, value: float, share: float | None) -> ActiveLatent:
    return ActiveLatent(number, value, share, EVIL, 0.5)


def test_a_card_with_hostile_texts(library: Library) -> None:
    page = harmless(card_view(library.run(library.first), 5))
    assert page.text.count("<script>alert(1)</script>") > 5
    assert "**bold** [x](javascript:1) {{7*7}} ${7*7}" in page.text
    assert "49" not in page.text.split("${7*7}")[0][-20:]


def test_a_list_with_hostile_texts(library: Library) -> None:
    hits = hits_view(library.run(library.first), Query(), 10, 5)
    page = harmless(hits.html)
    assert len(page.all("a")) == 10
    assert len(hits.latents) == N - 1
    assert EVIL in page.text


def test_texts_with_hostile_tokens() -> None:
    tokens = [WrittenToken(1, EVIL, [latent(3, 2.0, 0.5)]), WrittenToken(2, "\n", []), WrittenToken(3, " ", [])]
    for html in (text_view(tokens, None), ranking_view(tokens[0], EVIL), summary_view(tokens, EVIL, 3)):
        harmless(html)
    desk = Desk()
    desk.exchanges = [Exchange(EVIL, [Text(False, tokens=tokens, finish="stop")])]
    assert EVIL in harmless(texts_view(desk)).text
    harmless(steering_view([Steered(3, 1.0, "add", EVIL, 2.0)], EVIL, 1))
    harmless(message(EVIL, "error"))
    harmless(render("head", name=EVIL, about=EVIL))


def test_the_strongest_token_of_the_heat_map_is_the_stored_one(tmp_path: Path) -> None:
    library = Library([page_run(tmp_path / "run").path])
    run = library.run("run")
    best = run.files.card(17, 8).examples["max"][0]
    marks = Page(card_view(run, 17)).all("mark")
    strongest = max(best.tokens, key=lambda token: token.value)
    first = max(marks[: len(best.tokens)], key=lambda mark: float(mark["style"].removeprefix("--strength:")))
    assert first["data-value"] == short(strongest.value)


def test_every_token_of_an_example_stays_in_place(tmp_path: Path) -> None:
    library = Library([page_run(tmp_path / "run").path])
    text = Page(card_view(library.run("run"), 17)).text
    for examples in library.run("run").files.card(17, 8).examples.values():
        for example in examples:
            assert example.text in text


def test_chips_are_lit_by_one_latent_or_by_the_nearest_to_its_maximum() -> None:
    tokens = [WrittenToken(1, "a", [latent(1, 5.0, 0.2), latent(2, 1.0, 0.9)]), WrittenToken(2, "b", [])]
    assert [chip.strength for chip in chips(tokens)] == [0.9, None]
    assert [chip.strength for chip in chips(tokens, {1})] == [0.2, None]
    assert [chip.strength for chip in chips(tokens, {7, 8})] == [None, None]
    assert chips([WrittenToken(3, "\n", [])])[0].name == "↵"


def test_latents_of_a_text_by_share() -> None:
    tokens = [
        WrittenToken(1, "a", [latent(1, 5.0, 0.2)]),
        WrittenToken(2, "b", [latent(1, 9.0, 0.4), latent(2, 1.0, 0.3)]),
    ]
    found = in_text(tokens)
    assert [(one.top.latent, one.top.share, one.tokens) for one in found] == [(1, 0.4, 2), (2, 0.3, 1)]


def test_training_of_finished_running_and_empty_runs(tmp_path: Path) -> None:
    runs = [page_run(tmp_path / name).path for name in ("one", "two")]
    (runs[1] / "metrics.jsonl").unlink()
    library = Library(runs)
    page = Page(training_view([library.run("one"), library.run("two")]))
    assert "in progress" in page.text
    assert "not begun" in page.text
    assert "10020 %" in page.text  # step 100, two of ten epochs
    lonely = training_view([library.run("two")])
    assert "Loss" in lonely


def test_half_written_metrics_are_left_out_until_they_are_whole(tmp_path: Path) -> None:
    path = page_run(tmp_path / "run").path / "metrics.jsonl"
    whole = read_metrics(path)
    line = json.dumps({"step": 101, "loss": 0.5, "läng": "ä"}, ensure_ascii=False).encode()
    for cut in range(len(line)):
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0] + line[:cut])
        assert len(read_metrics(path)) == 1
    path.write_bytes(line + b"\n[1]\nnull\n" + b'{"loss": 1}\n')
    assert [row["step"] for row in read_metrics(path)] == [101]
    assert len(whole) == 100


def test_a_growing_run_is_drawn_anew(tmp_path: Path) -> None:
    run = page_run(tmp_path / "run")
    library = Library([run.path])
    before, seen = training_view([library.run("run")]), stamp([library.run("run")])
    assert stamp([library.run("run")]) == seen
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 140, "loss": 0.001, "epoch": 0.5}\n')
    assert stamp([library.run("run")]) != seen
    assert training_view([library.run("run")]) != before


def test_throughput_is_read_off_the_files_times(tmp_path: Path) -> None:
    for place, end in enumerate((19, 39, 59)):
        tracking(tmp_path / "tracking", end, np.arange(4))
        os.utime(tmp_path / "tracking" / f"steps-{end:08d}.safetensors", (0, 100 + 2 * place))
    intervals = Tracks(tmp_path / "tracking").intervals()
    assert rates(intervals) == [(40, 500.0), (60, 500.0)]
    assert [one.fired for one in intervals] == [3, 3, 3]
    trained = Manifest(stage="sae", recipe={}, inputs={}, fingerprint="", finished="1970-01-01T00:01:50Z")
    assert not copied(intervals, trained)
    os.utime(tmp_path / "tracking" / "steps-00000059.safetensors", (0, 1000))
    assert copied(Tracks(tmp_path / "tracking").intervals(), trained)


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [0.0, 1e-9], [1e6, 3e6], [-1.0, 1.0], [float("nan"), 1.0, 5.0]])
@pytest.mark.parametrize("log", [False, True])
def test_charts_of_any_values(values: list[float], log: bool) -> None:
    html = line_chart("t", [Line("a", range(len(values)), values)], log=log)
    page = Page(html)
    usable = [value for value in values if value == value and (value > 0 or not log)]
    assert bool(html) == bool(usable)
    for polyline in page.all("polyline"):
        for point in polyline["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 460
            assert 0 <= y <= 240


def test_a_histogram_says_its_counts() -> None:
    page = Page(bar_chart("t", [1, 0, 3], 0.0, 3.0, axis="value", note="tokens"))
    assert "2 to 3: 3" in page.text
    heights = [float(bar["height"]) for bar in page.all("rect")]
    assert heights[2] > heights[0] > heights[1] == 0
    assert bar_chart("t", [0, 0], 0, 1, axis="", note="") == ""
