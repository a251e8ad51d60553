"""The stage `sentences`: order, numbering, resume after kills, subsets, empty documents, damaged shards."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupted import contents, make_with_kills

from monosem.corpus import sentences
from monosem.corpus.sentences import Sentences
from monosem.errors import CorpusError
from monosem.recipe import CorpusRecipe, Recipe
from monosem.run import Run

TEXTS = [" ".join(f"Sentence {i} of document {n}." for i in range(n % 5)) for n in range(60)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "SHARD_CHARACTERS", 700)


def run_of(path: Path, *sources: Path, seed: int = 0, **keys: Any) -> Run:
    corpus = CorpusRecipe(sources=tuple(map(str, sources)), workers=1, **keys)
    return Run(path, Recipe(corpus=corpus, seed=seed))


@pytest.mark.usefixtures("small_shards")
def test_sentences_are_numbered_in_order(tmp_path: Path, source: Path) -> None:
    run = run_of(tmp_path / "run", source)
    stage = sentences.make(run)
    expected = [(n, i, f"Sentence {i} of document {n}.") for n in range(60) for i in range(n % 5)]
    table = Sentences(stage.path).take(range(len(expected)))
    assert len(stage.manifest.shards) > 3
    assert table["sentence"].to_pylist() == list(range(120))
    assert list(zip(*(table[name].to_pylist() for name in ("document", "index", "text")), strict=True)) == expected
    assert set(table["source"].to_pylist()) == {str(source)}
    assert stage.manifest.counts == {"documents": 60, "sentences": 120, "empty_documents": 12}
    assert sentences.make(run).manifest.finished == stage.manifest.finished
    assert str(source) in json.loads((run.path / "licences.json").read_text())


@pytest.mark.usefixtures("small_shards")
def test_any_rows_can_be_taken_in_any_order(tmp_path: Path, source: Path) -> None:
    reader = Sentences(sentences.make(run_of(tmp_path / "run", source)).path)
    every = reader.texts(0, len(reader))
    wanted = np.random.default_rng(0).integers(0, 120, 300)
    assert reader.take(wanted)["text"].to_pylist() == [every[i] for i in wanted]
    assert reader.texts(30, 50) == every[30:50]
    assert reader.texts(110, 500) == every[110:]
    assert len(reader.take([])) == 0
    with pytest.raises(IndexError, match="of 120"):
        reader.take([120])


@pytest.mark.usefixtures("small_shards")
def test_workers_change_no_byte(tmp_path: Path, source: Path) -> None:
    one, two = run_of(tmp_path / "one", source), run_of(tmp_path / "two", source)
    two = Run(two.path, two.recipe.model_copy(update={"corpus": two.recipe.corpus.model_copy(update={"workers": 2})}))
    assert contents(sentences.make(one).path) == contents(sentences.make(two).path)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("limit", [{}, {"max_documents": 40}, {"max_sentences": 150}])
def test_killed_anywhere_it_ends_with_the_same_bytes(tmp_path: Path, source: Path, limit: dict[str, int]) -> None:
    whole = sentences.make(run_of(tmp_path / "whole", source, source, **limit))
    kills = make_with_kills(
        f"""
        from pathlib import Path
        from monosem.corpus import sentences
        from monosem.recipe import CorpusRecipe, Recipe
        from monosem.run import Run
        sentences.SHARD_CHARACTERS = 700
        corpus = CorpusRecipe(sources=({str(source)!r},) * 2, workers=1, **{limit})
        run = Run(Path({str(tmp_path / "killed")!r}), Recipe(corpus=corpus))
        def make():
            sentences.make(run)
        """
    )
    assert kills >= 3
    assert contents(tmp_path / "killed" / "sentences") == contents(whole.path)


def test_a_subset_is_random_in_order_and_decided_by_the_seed(tmp_path: Path, source: Path) -> None:
    def documents(name: str, seed: int) -> list[str]:
        run = run_of(tmp_path / name, source, seed=seed, max_documents=30)
        reader = Sentences(sentences.make(run).path)
        assert reader.manifest.counts["documents"] == 30
        return reader.texts(0, len(reader))

    first = documents("a", 1)
    every = [f"Sentence {i} of document {n}." for n in range(60) for i in range(n % 5)]
    assert first == [text for text in every if text in set(first)]
    assert first == documents("b", 1)
    assert first != documents("c", 2)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("most", [1, 13, 119, 120, 500])
def test_it_ends_with_the_sentence_that_makes_the_number_full(tmp_path: Path, source: Path, most: int) -> None:
    every = Sentences(sentences.make(run_of(tmp_path / "every", source)).path)
    stage = sentences.make(run_of(tmp_path / "some", source, max_sentences=most))
    assert Sentences(stage.path).texts(0, 500) == every.texts(0, most)
    assert stage.manifest.counts["sentences"] == min(most, 120)


def test_max_tokens_does_not_split_again(tmp_path: Path, source: Path) -> None:
    stage = sentences.make(run_of(tmp_path / "run", source))
    again = sentences.open_stage(run_of(tmp_path / "run", source, max_tokens=7))
    assert again.complete
    assert again.fingerprint == stage.fingerprint


def test_an_empty_corpus_is_an_error(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(CorpusError, match=f"no document in {empty}"):
        sentences.make(run_of(tmp_path / "run", empty))
    empty.write_text('{"text": "  "}\n' * 3)
    with pytest.raises(CorpusError, match=r"no sentence in any of 3 documents .* check corpus.text_field = 'text'"):
        sentences.make(run_of(tmp_path / "other", empty))


def test_an_unknown_language_names_those_there_are(tmp_path: Path, source: Path) -> None:
    with pytest.raises(CorpusError, match=r"corpus.language = 'klingon': expected one of .*english"):
        sentences.make(run_of(tmp_path / "run", source, language="klingon"))


def test_a_damaged_shard_is_named(tmp_path: Path, source: Path) -> None:
    stage = sentences.make(run_of(tmp_path / "run", source))
    file = stage.path / stage.shards[0].name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorpusError, match=f"{file}: damaged.*--redo sentences"):
        Sentences(stage.path).texts(0, 1)
    file.unlink()
    with pytest.raises(CorpusError, match=f"{file}: missing.*--redo sentences"):
        Sentences(stage.path).texts(0, 1)
    with pytest.raises(CorpusError, match="no finished sentences"):
        Sentences(tmp_path)


@pytest.mark.model
def test_the_embedded_corpus_has_the_sentences_of_punkt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    stage = sentences.make(Run(tmp_path / "run", Recipe()))
    assert stage.manifest.counts == {"documents": 10_033, "sentences": 36_411, "empty_documents": 0}
