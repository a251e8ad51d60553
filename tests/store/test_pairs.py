"""Two hook points side by side: rows pair, orders agree, and stores that do not belong together are refused."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem.errors import StoreError
from monosem.run import Stage
from monosem.store import shards
from monosem.store.loader import Cursor, Loader, training, validation

SIZES = (700, 512, 90)


def store(folder: Path, d: int, *, dtype: torch.dtype = torch.float32, shift: int = 0, sizes=SIZES) -> Path:
    """A `batches` folder whose activations hold the number of their row, times d."""
    stage = Stage(folder, "batches", {"d": d}, {})
    stage.begin()
    first = 0
    for number, size in enumerate(sizes):
        for part, rows in (("train", size), ("validation", 40)):
            numbers = torch.arange(first, first + rows)
            name = f"{part}-{number:05d}.safetensors"
            tensors = {
                "activations": (numbers[:, None] * torch.ones(d)).to(dtype) * d,
                "sentence": numbers // 7 + shift,
                "position": (numbers % 7).int(),
                "token": numbers.int(),
            }
            shards.write(folder / name, dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)))
            stage.add_shard(name, rows)
            first += rows
    stage.finish()
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("pairs")
    return store(root / "a" / "1.resid_mid.norm", 8), store(root / "a" / "1.mlp_out", 5)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_batch_pairs(folders: tuple[Path, Path], workers: int) -> None:
    own, target = folders
    count = 2 * sum(SIZES) // 100 + 1
    alone = [batch.x.clone() for batch in islice(Loader(own, 100, seed=3, workers=0), count)]
    loader = Loader(own, 100, seed=3, workers=workers, target=target)
    for expected, batch in zip(alone, loader, strict=False):
        assert torch.equal(batch.x, expected)  # a target changes nothing of what is read
        assert torch.equal(batch.target / 5, (batch.x / 8)[:, :1].expand(-1, 5))
    loader.close()


def test_a_place_in_the_middle_pairs_too(folders: tuple[Path, Path]) -> None:
    own, target = folders
    loader = Loader(own, 64, seed=0, cursor=Cursor(1, 1, 100), target=target)
    batch = next(loader)
    assert torch.equal(batch.target[:, 0] / 5, batch.x[:, 0] / 8)
    loader.close()


def test_both_sets_pair_in_order(folders: tuple[Path, Path]) -> None:
    own, target = folders
    for read, rows in ((training, sum(SIZES)), (validation, 120)):
        parts = list(read(own, 64, None, target))
        assert sum(len(part.x) for part in parts) == rows
        assert all(torch.equal(part.target[:, 0] / 5, part.x[:, 0] / 8) for part in parts)
    assert sum(len(part.target) for part in validation(own, 64, 50, target)) == 50
    plain = next(validation(own, 64))
    assert plain.target is plain.x


def test_stores_of_other_rows_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    own, _ = folders
    other = store(tmp_path / "b" / "1.mlp_out", 5, sizes=(700, 512, 91))
    with pytest.raises(StoreError, match=r"1\.mlp_out has 1,303 rows in 3 shards, .* has 1,302 rows"):
        Loader(own, 100, seed=0, target=other)
    shifted = store(tmp_path / "c" / "1.mlp_out", 5, shift=1)
    with pytest.raises(StoreError, match=r"its rows are not the tokens of .*--redo capture"):
        next(Loader(own, 100, seed=0, target=shifted))


def test_bfloat16_targets_keep_their_format(folders: tuple[Path, Path], tmp_path: Path) -> None:
    own, _ = folders
    target = store(tmp_path / "1.mlp_out", 5, dtype=torch.bfloat16)
    batch = next(Loader(own, 32, seed=0, workers=0, target=target))
    assert (batch.x.dtype, batch.target.dtype) == (torch.float32, torch.bfloat16)
    np.testing.assert_allclose(batch.target[:, 0].float() / 5, batch.x[:, 0] / 8, rtol=0.01)
