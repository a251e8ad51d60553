"""Codes in files: blocks, choices and damage."""

from pathlib import Path

import numpy as np
import pytest

from monosem.errors import RunError
from monosem.interpret.codes import Codes, StoredCodes
from monosem.run import Stage


@pytest.fixture
def codes() -> Codes:
    rng = np.random.default_rng(1)
    sentence = np.repeat(np.arange(0, 120, 3), rng.integers(1, 9, 40))
    values = np.maximum(rng.normal(size=(len(sentence), 5)), 0)
    position = np.arange(len(sentence))
    return Codes.of(values, rng.integers(0, 70_000, values.shape), sentence, position, position + 1)


def assert_equal(one: Codes, other: Codes) -> None:
    for found, expected in zip(one, other, strict=True):
        np.testing.assert_array_equal(found, expected)


def joined(parts: list[Codes]) -> Codes:
    return Codes(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@pytest.mark.parametrize("entries", [1, 50, 10_000])
def test_blocks_are_whole_sentences_in_order(codes: Codes, entries: int):
    blocks = list(codes.blocks(entries))
    assert_equal(joined(blocks), codes)
    assert all(len(block.sentence) == 1 or len(block.latent) < entries + 40 for block in blocks)


def test_chosen_sentences_are_cut_out(codes: Codes):
    assert_equal(codes.chosen(np.array([4, 5, 6])), codes.between(4, 7))
    assert_equal(codes.chosen(np.array([2, 9])), joined([codes.between(2, 3), codes.between(9, 10)]))
    assert codes.chosen(np.zeros(0, int)).rows == 0


@pytest.mark.parametrize("n", [65_536, 70_000])
def test_files_give_back_what_was_saved(codes: Codes, tmp_path: Path, n: int):
    codes = codes._replace(latent=codes.latent % n)
    stage = Stage(tmp_path / "codes", "codes", {}, {})
    stage.begin()
    codes.save(stage.path / "codes-00000.safetensors", n)
    shard = stage.add_shard("codes-00000.safetensors", codes.rows)
    stage.finish(n=n, rows=codes.rows, sentences=40)
    stored = StoredCodes(stage)
    assert_equal(stored.read(shard), codes)
    assert stored.read(shard).latent.dtype == (np.uint16 if n == 65_536 else np.int32)
    assert stored.sentences_of(shard).tolist() == codes.sentence.tolist()
    assert_equal(stored.take(shard, np.array([0, 7, 39])), codes.chosen(np.array([0, 7, 39])))
    with (stage.path / shard.name).open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"!")
    with pytest.raises(RunError, match=r"codes-00000\.safetensors: damaged, .* --redo codes"):
        stored.read(shard)
    (stage.path / shard.name).unlink()
    with pytest.raises(RunError, match=r"codes-00000\.safetensors: missing; make it again with --redo codes"):
        stored.read(shard)
    with pytest.raises(RunError, match="damaged or missing"):
        stored.take(shard, np.array([0]))
