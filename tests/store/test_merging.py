"""Merging: parts of one capture become one store without a copy, and whatever differs is named."""

import shutil
from pathlib import Path

import pytest
import torch
from source_store import Made, make_store, read_all

from monosem.errors import StoreError
from monosem.run import Stage
from monosem.store import inspection
from monosem.store.merging import merge


@pytest.fixture
def store(tmp_path: Path) -> Made:
    return make_store(tmp_path / "run")


def part(store: Made, folder: Path, numbers: list[int], recipe: str = "for a test", **counts: object) -> Path:
    """Some of the shards as a store of their own."""
    stage = Stage(folder, "activations", {"made": recipe}, {})
    stage.begin()
    for number in numbers:
        shard = store.stage.shards[number]
        shutil.copy(store.stage.path / shard.name, folder / shard.name)
        stage.add_shard(shard.name, shard.rows, tokens=shard.rows)
    rows = sum(shard.rows for shard in stage.shards)
    stage.finish(**{"rows": rows, "tokens": rows, "d": 24, "norm_threshold": 123.0, "median_norm": 9.0} | counts)
    return folder


def test_parts_make_the_whole_without_a_copy(store: Made, tmp_path: Path) -> None:
    parts = [part(store, tmp_path / "b", [1, 3]), part(store, tmp_path / "a", [2, 0])]
    made = merge(parts, tmp_path / "whole")
    assert (made.shards, made.linked, made.rows) == (4, 4, len(store.rows.token))
    for found, expected in zip(read_all(tmp_path / "whole", ""), store.rows, strict=True):
        assert torch.equal(found, expected)
    stage = Stage(tmp_path / "whole", "activations", {"made": "for a test"}, {})
    assert stage.complete
    assert stage.manifest.counts["tokens"] == stage.manifest.counts["rows"] == made.rows
    assert not inspection.check(tmp_path / "whole").damaged
    shutil.rmtree(tmp_path / "a")
    assert not inspection.check(tmp_path / "whole").damaged


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"recipe": "for another"}, r"differs from .*one in recipe.made: 'for another', expected 'for a test'"),
        ({"norm_threshold": 7.0}, r"differs from .*one in counts.norm_threshold: 7.0, expected 123.0"),
    ],
)
def test_the_key_that_differs_is_named(store: Made, tmp_path: Path, keys: dict[str, str], message: str) -> None:
    one, two = part(store, tmp_path / "one", [0]), part(store, tmp_path / "two", [1], **keys)
    with pytest.raises(StoreError, match=message):
        merge([one, two], tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_a_sentence_in_two_stores_is_refused(store: Made, tmp_path: Path) -> None:
    one, two = part(store, tmp_path / "one", [0, 1]), part(store, tmp_path / "two", [1, 2])
    with pytest.raises(StoreError, match=r"two/activations-00001.safetensors: sentence 150 lies among those of .*one/"):
        merge([one, two], tmp_path / "whole")


def test_a_damaged_part_or_a_target_that_is_there_is_refused(store: Made, tmp_path: Path) -> None:
    one, two = part(store, tmp_path / "one", [0, 1]), part(store, tmp_path / "two", [2])
    with pytest.raises(StoreError, match="is there already"):
        merge([one, two], one)
    file = two / store.stage.shards[2].name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match=rf"{file}: .* bytes, expected"):
        merge([one, two], tmp_path / "whole")


def test_int8_parts_share_a_centre(tmp_path: Path) -> None:
    one = make_store(tmp_path / "one", sentences=150, dtype=torch.int8)
    two = make_store(tmp_path / "two", sentences=300, dtype=torch.int8)
    parts = [part(one, tmp_path / "a", [0]), part(two, tmp_path / "b", [1])]
    with pytest.raises(StoreError, match="another int8 centre"):
        merge(parts, tmp_path / "whole")
    merge([part(two, tmp_path / "c", [0]), part(two, tmp_path / "d", [1])], tmp_path / "whole")
    assert torch.equal(read_all(tmp_path / "whole", "").activations, two.rows.activations)
