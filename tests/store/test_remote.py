"""Stores behind URLs: the same rows and batches, a cache of bounded size, patience, and every failure named."""

import contextlib
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from source_store import make_store, read_all

from monosem.cli import main
from monosem.errors import StoreError
from monosem.recipe import PrepareRecipe
from monosem.run import Stage
from monosem.store import far, inspection, preparation, remote
from monosem.store.loader import Loader
from monosem.store.pack import pack
from monosem.store.shard_file import ShardFile
from monosem.store.shards import open_shards, where_of


class FlakyFileSystem(MemoryFileSystem):
    """A memory that times out as often as it is told to."""

    protocol = "flaky"
    failures = 0
    reads = 0

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **keys: Any) -> bytes:
        type(self).reads += 1
        if type(self).failures:
            type(self).failures -= 1
            raise TimeoutError("timed out")
        return super().cat_file(path, start, end, **keys)


fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(far, "FIRST_WAIT", 0.001)
    FlakyFileSystem.failures = 0
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture
def batches(tmp_path: Path) -> Path:
    """Nine training shards."""
    stage = make_store(tmp_path / "run").stage
    made = Stage(tmp_path / "run" / "batches" / "1.resid_post", "batches", {"seed": 0}, {})
    plan = preparation.Plan(9, 1)
    prepared = preparation.Preparation(stage, made, PrepareRecipe(), 0)
    prepared.plan = plan
    prepared.make()
    return made.path


def uploaded(folder: Path, url: str) -> str:
    """A copy of a store, its shards as files of their own."""
    system, root = fsspec.core.url_to_fs(url)
    system.makedirs(root, exist_ok=True)
    for file in folder.iterdir():
        system.pipe_file(f"{root}/{file.name}", file.read_bytes())
    return url


def packed(folder: Path, url: str, shards: float = 3) -> str:
    pack(folder, url, shards * inspection.check(folder).bytes / 10 / 1e9)
    return url


def adopted(url: str, folder: Path, recipe: dict[str, object] | None = None) -> Path:
    stage = Stage(folder, "batches", {"seed": 0} if recipe is None else recipe, {})
    return remote.adopt(stage, url).path


def taken(folder: Path, count: int = 60) -> list[torch.Tensor]:
    loader = Loader(folder, 100, seed=1)
    batches = [batch.x.clone() for batch in islice(loader, count)]
    loader.close()
    return batches


def bytes_of(files: list[Path]) -> int:
    """Of those that are still there: another thread may delete one."""
    total = 0
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def cached() -> list[Path]:
    return sorted(remote.shard_cache().glob("*.safetensors"))


@pytest.mark.parametrize("how", [uploaded, packed])
@pytest.mark.parametrize("scheme", ["memory://bucket/store", "file://{}/far", "{}/near", "flaky://bucket/store"])
def test_batches_from_anywhere_are_the_same(batches: Path, tmp_path: Path, how: Any, scheme: str) -> None:
    url = how(batches, scheme.format(tmp_path))
    folder = adopted(url, tmp_path / "other")
    assert not list(folder.glob("*.safetensors"))
    for found, expected in zip(taken(folder), taken(batches), strict=True):
        assert torch.equal(found, expected)
    for found, expected in zip(read_all(folder, "train-"), read_all(batches, "train-"), strict=True):
        assert torch.equal(found, expected)
    assert bool(cached()) == ("://" in url)


def test_a_shard_is_fetched_once_and_the_next_ahead(batches: Path, tmp_path: Path) -> None:
    folder = adopted(packed(batches, "flaky://bucket/store"), tmp_path / "other")
    FlakyFileSystem.reads = 0
    loader = Loader(folder, 10, seed=1, workers=0)
    next(loader)
    deadline = time.monotonic() + 20
    while len(cached()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(cached()) == FlakyFileSystem.reads == 2  # the one that is read, and the one after it
    for _ in islice(loader, 3 * loader.rows // 10):
        pass
    loader.close()
    assert FlakyFileSystem.reads == 9


def test_the_cache_stays_within_its_size(batches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = adopted(packed(batches, "memory://bucket/store"), tmp_path / "other")
    shards = open_shards(folder, "train-").shards
    limit = 3.5 * max(shard.bytes for shard in shards)
    monkeypatch.setenv(remote.CACHE_VARIABLE, str(limit / 1e9))
    expected = taken(batches, 100)
    loader = Loader(folder, 100, seed=1)
    for batch, x in zip(loader, expected, strict=False):
        assert torch.equal(batch.x, x)
        assert bytes_of(cached()) <= limit
    loader.close()


def test_the_shard_that_was_not_read_for_longest_goes_first(
    batches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adopted(packed(batches, "memory://bucket/store"), tmp_path / "other")
    places = open_shards(folder, "train-").paths
    opened = [ShardFile(where) for where in places[:3]]
    for age, file in enumerate(opened):
        os.utime(file.path, (1000 + age, 1000 + age))
    ShardFile(places[0])
    size = sum(file.stat().st_size for file in cached())
    monkeypatch.setenv(remote.CACHE_VARIABLE, str(size / 1e9))
    ShardFile(places[3])
    assert opened[0].path.exists()
    assert not opened[1].path.exists()
    # who has it open reads on
    assert len(opened[1].activations()) == opened[1].rows
    assert opened[1].map("token").shape == (opened[1].rows,)


def test_time_outs_are_tried_again(batches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = packed(batches, "flaky://bucket/store")
    FlakyFileSystem.failures = far.TRIES - 1
    folder = adopted(url, tmp_path / "other")
    assert FlakyFileSystem.failures == 0
    FlakyFileSystem.failures = 2
    assert torch.equal(taken(folder, 1)[0], taken(batches, 1)[0])
    assert "flaky://bucket/store/shards-0000" in capsys.readouterr().err


def test_a_store_that_stays_away_is_named_and_goes_on_later(batches: Path, tmp_path: Path) -> None:
    folder = adopted(packed(batches, "flaky://bucket/store"), tmp_path / "other")
    loader = Loader(folder, 100, seed=1, workers=1)
    first = next(loader)
    cursor = first.cursor
    FlakyFileSystem.failures = 10**6
    with pytest.raises(
        StoreError, match=r"flaky://bucket/store/shards-\d+.tar: failed 6 times \(timed out\); give the"
    ):
        for batch in loader:
            cursor = batch.cursor
    FlakyFileSystem.failures = 0
    left = Loader(folder, 100, seed=1, cursor=cursor)
    whole = Loader(batches, 100, seed=1, cursor=cursor)
    for _ in range(20):
        assert torch.equal(next(left).x, next(whole).x)
    left.close()
    whole.close()
    FlakyFileSystem.failures = 10**6
    with pytest.raises(StoreError, match=r"flaky://bucket/store/manifest.json: failed 6 times"):
        adopted("flaky://bucket/store", tmp_path / "third")


def test_a_damaged_shard_is_named_and_not_kept(batches: Path, tmp_path: Path) -> None:
    url = uploaded(batches, "memory://bucket/store")
    folder = adopted(url, tmp_path / "other")
    system, root = fsspec.core.url_to_fs(url)
    shard = open_shards(folder, "train-").shards[2]
    good = system.cat_file(f"{root}/{shard.name}")
    for data, message in (
        (good[:-1] + bytes([good[-1] ^ 1]), "damaged, its sha256 is not the manifest's; upload it again"),
        (good[:-1], "ends too early; upload it again"),
    ):
        system.pipe_file(f"{root}/{shard.name}", data)
        with pytest.raises(StoreError, match=f"{url}/{shard.name}: .*{message}"):
            ShardFile(where_of(folder, shard))
        assert not list(remote.shard_cache().iterdir())
        found = inspection.check(remote.mirror(url))
        assert list(found.damaged) == [shard.name]
    system.rm_file(f"{root}/{shard.name}")
    with pytest.raises(StoreError, match=f"{url}/{shard.name}: {shard.name} is missing; upload it again"):
        ShardFile(where_of(folder, shard))
    system.pipe_file(f"{root}/{shard.name}", good)
    assert ShardFile(where_of(folder, shard)).rows == shard.rows


def test_another_store_is_refused_by_the_key_that_differs(batches: Path, tmp_path: Path) -> None:
    url = packed(batches, "memory://bucket/store")
    with pytest.raises(StoreError, match=rf"{url}: another store than this recipe's \(recipe.seed: 0 there, 1 here\)"):
        adopted(url, tmp_path / "other", {"seed": 1})
    assert not (tmp_path / "other").exists()
    with pytest.raises(StoreError, match=r"memory://bucket/nothing: no finished store"):
        adopted("memory://bucket/nothing", tmp_path / "other")
    with pytest.raises(StoreError, match=r"nosuch://bucket: .*"):
        adopted("nosuch://bucket", tmp_path / "other")


def test_an_interrupted_upload_goes_on(batches: Path, tmp_path: Path) -> None:
    url = packed(batches, "memory://bucket/store")
    system, root = fsspec.core.url_to_fs(url)
    whole = {path: system.cat_file(path) for path in system.find(root)}
    system.rm_file(f"{root}/manifest.json")
    system.pipe_file(f"{root}/shards-00001.tar", whole[f"{root}/shards-00001.tar"][:-100])
    with pytest.raises(StoreError, match="no finished store"):
        adopted(url, tmp_path / "other")
    packed(batches, url)
    assert {path: system.cat_file(path) for path in system.find(root)} == whole


def test_prepare_reads_activations_from_anywhere(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run", dtype=torch.int8)
    pack(store.stage.path, "memory://bucket/activations", 1)

    def prepared(source: Stage, name: str) -> Path:
        stage = Stage(tmp_path / "batches" / name, "batches", {}, {})
        preparation.Preparation(source, stage, PrepareRecipe(), 0).make()
        return stage.path

    source = Stage(tmp_path / "other" / "activations", "activations", {"made": "for a test"}, {})
    remote.adopt(source, "memory://bucket/activations")
    here, there = prepared(store.stage, "here"), prepared(source, "there")
    for file in here.glob("*.safetensors"):
        assert (there / file.name).read_bytes() == file.read_bytes()


def test_a_run_trains_and_finds_examples_from_remote_stores(tiny_recipe: Path, tmp_path: Path) -> None:
    runs, point = tmp_path / "runs", "1.resid_post"
    verbs = ("sentences", "capture", "prepare", "train", "examples")
    for verb in verbs:
        main([verb, str(tiny_recipe), "--runs", str(runs), "--capture.dtype", "int8"])
    for stage in ("activations", "batches"):
        main(["store", "pack", str(runs / "tiny" / stage / point), f"memory://hub/{stage}/{point}"])
    sources = [
        "--capture.dtype",
        "int8",
        "--capture.source",
        "memory://hub/activations",
        "--prepare.source",
        "memory://hub/batches",
    ]
    for verb in verbs:
        main([verb, str(tiny_recipe), "--runs", str(runs), "--name", "far", *sources])
    for stage in ("activations", "batches"):
        assert not list((runs / "far" / stage).rglob("*.safetensors"))
    for file in ("sae/final/sae.safetensors", "examples/examples.parquet"):
        assert (runs / "far" / file).read_bytes() == (runs / "tiny" / file).read_bytes()


def test_the_command_line_takes_urls(batches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = packed(batches, "memory://bucket/store")
    capsys.readouterr()
    main(["store", "verify", url])
    assert "whole, 11 shards" in capsys.readouterr().out
    main(["store", "ls", url])
    assert "shards-00001.tar" in capsys.readouterr().out
    assert not cached()
    main(["store", "stats", url])
    assert "total variance" in capsys.readouterr().out
