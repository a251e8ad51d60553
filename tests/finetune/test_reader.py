"""The order of the sentences: seeded, whole in every epoch, and gone on with from any place."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from monosem import recipe
from monosem.corpus import sentences, tokens
from monosem.corpus.sentences import Sentences
from monosem.errors import StoreError
from monosem.finetune.reader import Batch, Place, Reader
from monosem.lm.source import open_tokenizer
from monosem.lm.tokenizer import Tokenizer
from monosem.run import Run

BEGIN = Place(0, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> Run:
    run = Run(tmp_path_factory.mktemp("reader") / "tiny", recipe.load(tiny_recipe))
    sentences.make(run)
    return run


@pytest.fixture(scope="module")
def source(run: Run) -> Sentences:
    return Sentences(run.folder("sentences"))


@pytest.fixture(scope="module")
def tokenizer(run: Run) -> Tokenizer:
    return open_tokenizer(run.recipe.model)


def first(reader: Reader, count: int, start: Place = BEGIN) -> list[Batch]:
    return list(islice(reader.batches(start), count))


def epoch(reader: Reader, number: int) -> list[Batch]:
    """The batches that end within an epoch, and the one that reaches beyond it."""
    found = []
    for batch in reader.batches(Place(number, 0)):
        found.append(batch)
        if batch.after.epoch > number:
            return found
    raise AssertionError("it has no end")


def test_an_epoch_reads_every_chosen_sentence_once(source: Sentences, tokenizer: Tokenizer) -> None:
    chosen = np.arange(100, 400)
    reader = Reader(source, chosen, tokenizer, 192, 256, seed=3)
    batches = epoch(reader, 0)
    expected = [ids for ids in tokens.encode(tokenizer, source.texts(100, 400), 192) if len(ids) > 1]
    read = [ids for batch in batches for ids in batch.sentences]
    assert sorted(read[: len(expected)]) == sorted(expected)
    assert read[: len(expected)] != expected
    assert all(batch.n_tokens >= 256 for batch in batches)
    assert all(batch.n_tokens - len(batch.sentences[-1]) < 256 for batch in batches)


def test_seed_and_epoch_decide_the_order(source: Sentences, tokenizer: Tokenizer) -> None:
    def reader(seed: int) -> Reader:
        return Reader(source, np.arange(300), tokenizer, 192, 256, seed)

    assert first(reader(1), 4) == first(reader(1), 4)
    assert first(reader(1), 4) != first(reader(2), 4)
    assert first(reader(1), 1)[0].sentences != first(reader(1), 1, Place(1, 0))[0].sentences


def test_it_goes_on_from_any_place(source: Sentences, tokenizer: Tokenizer) -> None:
    reader = Reader(source, np.arange(1500), tokenizer, 192, 700, seed=0)
    whole = first(reader, 60)
    assert whole[-1].after.epoch > 0
    for done in (1, 7, 33, 52):
        assert first(reader, 60 - done, whole[done - 1].after) == whole[done:]


def test_long_sentences_are_cut(source: Sentences, tokenizer: Tokenizer) -> None:
    batches = first(Reader(source, np.arange(300), tokenizer, 5, 256, seed=0), 3)
    assert max(len(ids) for batch in batches for ids in batch.sentences) == 5


def test_sentences_that_predict_nothing(source: Sentences, tokenizer: Tokenizer) -> None:
    with pytest.raises(StoreError, match="no training sentence has two tokens or more; capture more sentences"):
        first(Reader(source, np.arange(300), tokenizer, 1, 256, seed=0), 1)
