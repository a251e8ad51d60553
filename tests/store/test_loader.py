"""The loader: each epoch holds every row once, resuming gives the batches that are left, workers change nothing."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from monosem.errors import StoreError
from monosem.run import Stage
from monosem.store import loader, shards
from monosem.store.loader import Batch, Cursor, Loader, training, validation

SIZES = (1300, 0, 512, 77, 1024)
ROWS = sum(SIZES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `batches` folder whose first column is the number of the row."""
    stage = Stage(tmp_path_factory.mktemp("run") / "batches" / "x", "batches", {}, {})
    stage.begin()
    number = 0
    for part, sizes in (("train", SIZES), ("validation", (100, 30))):
        for shard, size in enumerate(sizes):
            x = torch.randn(size, 3)
            x[:, 0] = torch.arange(number, number + size)
            number += size
            name = f"{part}-{shard:05d}.safetensors"
            origin = {"sentence": torch.zeros(size).long()} | dict.fromkeys(
                ("position", "token"), torch.zeros(size).int()
            )
            shards.write(stage.path / name, {"activations": x, **origin})
            stage.add_shard(name, size)
    stage.finish()
    return stage.path


def held_out(folder: Path, limit: int | None = None) -> list[torch.Tensor]:
    return [sample.x for sample in validation(folder, 64, limit)]


def taken(source: Loader, count: int) -> list[Batch]:
    """Copies of the next batches; ends the loader."""
    batches = [Batch(batch.x.clone(), batch.target.clone(), batch.cursor) for batch in islice(source, count)]
    source.close()
    return batches


def numbers(batches: list[Batch]) -> Tensor:
    return torch.cat([batch.x[:, 0] for batch in batches]).long()


@pytest.mark.parametrize("batch", [1, 100, 512, 4000])
def test_each_epoch_holds_every_row_once_in_another_order(folder: Path, batch: int) -> None:
    source = Loader(folder, batch, seed=1, workers=2)
    assert (source.rows, source.d) == (ROWS, 3)
    seen = numbers(taken(source, -(-3 * ROWS // batch)))
    epochs = seen[: 3 * ROWS].reshape(3, ROWS)
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, torch.arange(ROWS))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


@given(batch=st.integers(1, 3000), done=st.integers(0, 12), workers=st.integers(0, 3), seed=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_a_cursor_gives_exactly_the_batches_that_are_left(
    folder: Path, batch: int, done: int, workers: int, seed: int
) -> None:
    whole = taken(Loader(folder, batch, seed, workers=1), done + 6)
    cursor = whole[done - 1].cursor if done else None
    left = taken(Loader(folder, batch, seed, workers, cursor), 6)
    assert [b.cursor for b in left] == [b.cursor for b in whole[done:]]
    for found, expected in zip(left, whole[done:], strict=True):
        assert torch.equal(found.x, expected.x)


def test_a_cursor_says_where_the_epoch_stands(folder: Path) -> None:
    batches = taken(Loader(folder, ROWS // 3, seed=0, workers=0), 5)
    assert [batch.cursor.epoch for batch in batches] == [0, 0, 1, 1, 1] if ROWS % 3 == 0 else [0, 0, 0, 1, 1]
    assert taken(Loader(folder, ROWS, seed=0), 1)[0].cursor == Cursor(1, 0, 0)


def test_the_seed_decides_the_order(folder: Path) -> None:
    first = numbers(taken(Loader(folder, 64, seed=1), 10))
    assert torch.equal(first, numbers(taken(Loader(folder, 64, seed=1), 10)))
    assert not torch.equal(first, numbers(taken(Loader(folder, 64, seed=2), 10)))


def test_blocks_stay_together_and_their_order_does_not(folder: Path) -> None:
    seen = numbers(taken(Loader(folder, ROWS, seed=3), 1))
    joins = (seen.diff() == 1).float().mean()
    assert joins > 0.99
    starts = [int(seen[0]), *seen[1:][seen.diff() != 1].tolist()]
    assert set(starts) <= {0, 512, 1024, 1300, 1812, 1889, 1889 + 512}


def test_what_is_held_out_is_read_in_order_up_to_a_limit(folder: Path) -> None:
    def read(parts: list[Tensor]) -> tuple[list[int], Tensor]:
        return [len(part) for part in parts], torch.cat(parts)[:, 0].long() - ROWS

    assert read(held_out(folder))[0] == [64, 36, 30]
    assert torch.equal(read(held_out(folder))[1], torch.arange(130))
    assert torch.equal(read(held_out(folder, 110))[1], torch.arange(110))
    assert torch.equal(read(held_out(folder, 10))[1], torch.arange(10))
    assert torch.equal(torch.cat([sample.x for sample in training(folder, 500)])[:, 0].long(), torch.arange(ROWS))


def test_a_damaged_shard_is_found_before_the_first_batch(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "batches" / "x", "batches", {}, {})
    stage.begin()
    shards.write(stage.path / "train-00000.safetensors", {"activations": torch.ones(50, 3)})
    stage.add_shard("train-00000.safetensors", 50)
    with pytest.raises(StoreError, match="no finished store"):
        Loader(stage.path, 10, seed=0)
    stage.finish()
    assert len(taken(Loader(stage.path, 10, seed=0), 5)) == 5
    file = stage.path / "train-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreError, match=rf"{file}: damaged.*--redo prepare"):
        Loader(stage.path, 10, seed=0)


def test_a_shard_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "batches" / "x", "batches", {}, {})
    stage.begin()
    file = stage.path / "train-00000.safetensors"
    shards.write(file, {"activations": torch.ones(5000, 3)})
    stage.add_shard(file.name, 5000)
    stage.finish()
    source = Loader(stage.path, 10, seed=0, workers=1)
    next(source)
    with file.open("r+b") as opened:
        opened.truncate(100)
    with pytest.raises(StoreError, match=rf"{file}: ends too early"):
        list(islice(source, 600))
    assert loader.BLOCK_ROWS < 5000
