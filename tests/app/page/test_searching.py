"""The page's search finds what `monosem search` finds, in the same order, and filters by figures."""

import json
from pathlib import Path

import numpy as np
import pytest
from page_run import DEAD, DENSE, N, page_run

from monosem.app.page import annotations
from monosem.app.page.latents import LatentFiles
from monosem.app.page.searching import ORDERS, Query, Searcher
from monosem.interpret import search

NONE = np.full(N, np.nan)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_run(tmp_path_factory.mktemp("runs") / "run").path


@pytest.fixture
def searcher(folder: Path) -> Searcher:
    return Searcher(LatentFiles(folder))


@pytest.mark.parametrize(
    "words", ["ship", "SHIP rope", "überfluß", "naive", "vio mel", "about", "nothing-like-it", "7"]
)
def test_the_same_as_on_the_command_line(folder: Path, searcher: Searcher, words: str) -> None:
    expected = search.find(folder, words, N)
    found = searcher.find(Query(words), NONE)
    ours = [latent for latent in found.latents.tolist() if not (words == "7" and latent == 7)]
    assert ours == [hit.latent for hit in expected if not (words == "7" and hit.latent == 7)]
    for hit in expected:
        assert found.sentences[hit.latent] == hit.sentences


def test_a_number_finds_its_latent_the_dead_included(searcher: Searcher) -> None:
    assert searcher.find(Query(str(DEAD)), NONE).latents[0] == DEAD
    assert DEAD not in searcher.find(Query(), NONE).latents


def test_filters(searcher: Searcher) -> None:
    assert searcher.find(Query(certainty=0.9), NONE).latents.tolist() == [39, 38, 37, 36]
    assert searcher.find(Query(density=(0.1, 1.0)), NONE).latents.tolist() == [DENSE]
    scores = np.where(np.arange(N) % 10 == 3, 0.8, np.nan)
    assert sorted(searcher.find(Query(score=0.5), scores).latents) == [3, 13, 23, 33]


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_holds_the_same_latents(searcher: Searcher, order: str) -> None:
    assert sorted(searcher.find(Query(order=order), NONE).latents) == sorted(set(range(N)) - {DEAD})


def test_orders(searcher: Searcher) -> None:
    assert searcher.find(Query(order="dense"), NONE).latents[0] == DENSE
    assert searcher.find(Query(order="rare"), NONE).latents[0] == 0
    assert searcher.find(Query(order="latent"), NONE).latents[:3].tolist() == [0, 1, 2]
    assert searcher.find(Query(order="uncertain"), NONE).latents[0] == 0


def test_notes_of_people_are_searched(tmp_path: Path) -> None:
    folder = page_run(tmp_path / "run").path
    searcher = Searcher(LatentFiles(folder))
    assert not len(searcher.find(Query("quagga"), NONE).latents)
    annotations.add(folder / annotations.ANNOTATIONS, 12, "The quagga, once", None)
    assert searcher.find(Query("quagga"), NONE).latents.tolist() == [12]


def test_without_explanations_sentences_are_searched(tmp_path: Path) -> None:
    folder = page_run(tmp_path / "run").path
    path = folder / "explanations" / "explanations.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    assert len(rows) == N
    found = Searcher(LatentFiles(folder)).find(Query("violin"), NONE)
    assert [hit.latent for hit in search.find(folder, "violin", N)] == found.latents.tolist()
