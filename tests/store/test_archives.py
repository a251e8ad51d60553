"""Packed stores: any tar program reads them, every reader opens them as they are, and every damage is named."""

import json
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import pytest
import torch
from interrupted import contents
from source_store import Made, in_order, make_store, read_all

from monosem.errors import StoreError
from monosem.recipe import PrepareRecipe
from monosem.run import Stage
from monosem.store import inspection, preparation
from monosem.store.archives import INDEX
from monosem.store.loader import Loader, validation
from monosem.store.pack import pack
from monosem.store.stats import Statistics


@pytest.fixture
def store(tmp_path: Path) -> Made:
    return make_store(tmp_path / "run")


def packed(store: Made, target: Path, shards: float = 2.5) -> Path:
    pack(store.stage.path, str(target), shards * store.stage.shards[0].bytes / 1e9)
    return target


def test_it_holds_the_same_rows_in_archives_that_tar_reads(store: Made, tmp_path: Path) -> None:
    folder = packed(store, tmp_path / "packed")
    assert sorted(file.name for file in folder.iterdir()) == [
        INDEX,
        "manifest.json",
        "shards-00000.tar",
        "shards-00001.tar",
    ]
    for found, expected in zip(in_order(read_all(folder, "")), in_order(store.rows), strict=True):
        assert torch.equal(found, expected)
    with tarfile.open(folder / "shards-00001.tar") as archive:
        name = archive.getnames()[0]
        member = archive.extractfile(name)
        assert member is not None
        assert member.read() == (store.stage.path / name).read_bytes()
    assert inspection.check(folder) == inspection.check(store.stage.path)
    assert {shard.archive for shard in inspection.listing(folder)} == {"shards-00000.tar", "shards-00001.tar"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_training_and_preparing_read_it_as_it_is(tmp_path: Path, dtype: torch.dtype) -> None:
    store = make_store(tmp_path / "run", dtype=dtype)

    def prepared(source: Path, name: str) -> Path:
        opened = Stage(source, "activations", {"made": "for a test"}, {})
        stage = Stage(tmp_path / "batches" / name, "batches", {}, {})
        preparation.Preparation(opened, stage, PrepareRecipe(), 0).make()
        return stage.path

    plain, other = prepared(store.stage.path, "plain"), prepared(packed(store, tmp_path / "packed"), "other")
    for file in plain.glob("*.safetensors"):
        assert (other / file.name).read_bytes() == file.read_bytes()
    pack(plain, str(tmp_path / "batches" / "packed"), 1)
    packed_batches = tmp_path / "batches" / "packed"
    assert Statistics.load(packed_batches).total_variance == Statistics.load(plain).total_variance
    assert torch.equal(held_out(packed_batches), held_out(plain))
    one, two = Loader(plain, 100, seed=1), Loader(packed_batches, 100, seed=1)
    for _ in range(30):
        assert torch.equal(next(one).x, next(two).x)
    one.close()
    two.close()


def test_an_interrupted_packing_goes_on(store: Made, tmp_path: Path) -> None:
    whole = packed(store, tmp_path / "whole")
    target = packed(store, tmp_path / "target")
    (target / "manifest.json").unlink()
    (target / "shards-00001.tar").unlink()
    kept = (target / "shards-00000.tar").stat().st_ino
    with pytest.raises(StoreError, match="no finished store"):
        inspection.check(target)
    made = pack(store.stage.path, str(target), 2.5 * store.stage.shards[0].bytes / 1e9)
    assert (made.archives, made.kept) == (2, 1)
    assert (target / "shards-00000.tar").stat().st_ino == kept
    assert {f.name: f.read_bytes() for f in target.iterdir()} == {f.name: f.read_bytes() for f in whole.iterdir()}


def test_another_store_or_size_at_the_target_is_refused(store: Made, tmp_path: Path) -> None:
    target = packed(store, tmp_path / "target")
    with pytest.raises(StoreError, match=r"target: holds another store or archives of another size"):
        packed(store, target, shards=1.5)
    with pytest.raises(StoreError, match=r"target: holds another store"):
        packed(make_store(tmp_path / "other", sentences=300), target)


def test_a_damaged_shard_is_not_packed(store: Made, tmp_path: Path) -> None:
    file = store.stage.path / store.stage.shards[3].name
    flip(file, -5)
    with pytest.raises(StoreError, match=rf"{file}: damaged, its bytes are not those of the manifest"):
        packed(store, tmp_path / "target")
    assert not (tmp_path / "target" / "manifest.json").exists()
    assert not list((tmp_path / "target").glob("*.tmp"))
    flip(file, -5)
    assert not inspection.check(packed(store, tmp_path / "target")).damaged


def test_a_flipped_bit_in_an_archive_names_the_shard(store: Made, tmp_path: Path) -> None:
    folder = packed(store, tmp_path / "packed")
    place = json.loads((folder / INDEX).read_text())["shards"][store.stage.shards[1].name]
    flip(folder / place["archive"], place["offset"] + 900)
    found = inspection.check(folder)
    assert list(found.damaged) == [store.stage.shards[1].name]
    assert "shards-00000.tar: activations-00001.safetensors: damaged" in found.damaged[store.stage.shards[1].name]
    with pytest.raises(StoreError, match=r"activations-00001.safetensors: damaged.*pack the store again"):
        read_all(folder, "")


def test_an_archive_cut_short_or_gone_names_its_shards(store: Made, tmp_path: Path) -> None:
    folder = packed(store, tmp_path / "packed")
    archive = folder / "shards-00001.tar"
    archive.write_bytes(archive.read_bytes()[:-3000])
    assert "ends too early" in inspection.check(folder).damaged["activations-00003.safetensors"]
    archive.unlink()
    assert list(inspection.check(folder).damaged) == ["activations-00002.safetensors", "activations-00003.safetensors"]
    with pytest.raises(StoreError, match=r"shards-00001.tar: activations-0000.*: missing; copy the archive again"):
        read_all(folder, "")


def test_an_index_that_does_not_match_is_refused(store: Made, tmp_path: Path) -> None:
    folder = packed(store, tmp_path / "packed")
    other = packed(make_store(tmp_path / "other", sentences=300), tmp_path / "other-packed", shards=1)
    (folder / INDEX).write_text((other / INDEX).read_text())
    with pytest.raises(StoreError, match=rf"{folder / INDEX}: does not belong to the manifest.json beside it"):
        read_all(folder, "")
    (folder / INDEX).write_text("{")
    with pytest.raises(StoreError, match=rf"{folder / INDEX}: damaged"):
        read_all(folder, "")


def test_a_disk_that_fills_up_leaves_a_packing_that_goes_on(store: Made, tmp_path: Path) -> None:
    whole, size = packed(store, tmp_path / "whole", shards=1.2), store.stage.shards[0].bytes
    script = f"""
    import resource
    from pathlib import Path
    from monosem.store import pack
    write, left = pack._archive, 2
    def filling(*arguments):
        global left
        left -= 1
        if left == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, resource.RLIM_INFINITY))
        return write(*arguments)
    pack._archive = filling
    try:
        pack.pack(Path({str(store.stage.path)!r}), {str(tmp_path / "full")!r}, {1.2 * size / 1e9})
    except OSError as error:
        print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "no room left on the disk" in done.stdout
    assert str(tmp_path / "full") in done.stdout
    assert sorted(file.name for file in (tmp_path / "full").iterdir()) == [INDEX, "shards-00000.tar"]
    assert packed(store, tmp_path / "full", shards=1.2)
    assert contents(tmp_path / "full") == contents(whole)


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)


def held_out(folder: Path) -> torch.Tensor:
    return torch.cat([sample.x for sample in validation(folder, 50)])
