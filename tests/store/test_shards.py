"""Shards: the bytes that safetensors writes and reads, and every damage found and named."""

import errno
import resource
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from source_store import make_store, rows_of

from monosem.errors import StoreError
from monosem.store import disk, shards
from monosem.store.shards import ShardFile, memory, open_shards


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        rows = rows_of(20, 5, dtype=dtype)
        shards.write(tmp_path / "a", rows._asdict())
        loaded = load_file(tmp_path / "a")
        for name, tensor in rows._asdict().items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name], tensor)


def test_what_safetensors_writes_is_read(tmp_path: Path) -> None:
    rows = rows_of(20, 5)
    save_file(rows._asdict(), tmp_path / "a", metadata={"format": "pt"})
    for found, tensor in zip(shards.read(tmp_path / "a"), rows, strict=True):
        assert torch.equal(found, tensor)


def test_no_rows_are_rows_too(tmp_path: Path) -> None:
    rows = shards.Rows(*(tensor[:0] for tensor in rows_of(2, 5)))
    shards.write(tmp_path / "a", rows._asdict())
    assert shards.read(tmp_path / "a").activations.shape == (0, 5)
    assert ShardFile(tmp_path / "a").map("activations").shape == (0, 5)


@given(st.data())
def test_any_run_of_rows_can_be_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "runs-of-rows"
    rows = rows_of(30, 7)
    if not path.exists():
        shards.write(path, rows._asdict())
    file = ShardFile(path)
    start = data.draw(st.integers(0, file.rows))
    stop = data.draw(st.integers(start, file.rows))
    name = data.draw(st.sampled_from(shards.Rows._fields))
    expected = rows._asdict()[name][start:stop]
    assert torch.equal(file.read(name, start, stop), expected)
    out = torch.empty_like(expected)
    file.read_into(name, start, memory(out))
    assert torch.equal(out, expected)


def test_a_store_that_is_whole_opens(tmp_path: Path) -> None:
    made = make_store(tmp_path)
    opened = open_shards(made.stage.path)
    assert opened.rows == len(made.rows.sentence)
    assert torch.equal(torch.cat([shards.read(path).token for path in opened.paths]), made.rows.token)
    with pytest.raises(StoreError, match="no finished store"):
        open_shards(tmp_path)


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.999])
def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, place: float) -> None:
    stage = make_store(tmp_path).stage
    file = stage.path / stage.shards[1].name
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 4
    file.write_bytes(data)
    with pytest.raises(StoreError, match=rf"{file}: damaged.*make it again with --redo capture"):
        open_shards(stage.path)


@pytest.mark.parametrize("keep", [0, 4, 40, 1000, -1])
def test_a_shard_cut_short_is_found(tmp_path: Path, keep: int) -> None:
    stage = make_store(tmp_path).stage
    file = stage.path / stage.shards[1].name
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(StoreError, match=rf"{file}: .*--redo capture"):
        open_shards(stage.path)
    with pytest.raises(StoreError, match=rf"{file}: .*--redo capture"):
        shards.read(file)


def test_a_missing_shard_is_named_with_its_own_stage(tmp_path: Path) -> None:
    stage = make_store(tmp_path).stage
    (tmp_path / "batches").mkdir()
    moved = tmp_path / "batches" / "1.resid_post"
    shutil.move(stage.path, moved)
    file = moved / stage.shards[0].name
    file.unlink()
    with pytest.raises(StoreError, match=rf"{file}: missing; make it again with --redo prepare"):
        open_shards(moved)


def test_another_safetensors_file_is_not_a_shard(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3, 4)}, tmp_path / "a")
    with pytest.raises(StoreError, match=r"holds no activations, sentence, position, token"):
        shards.read(tmp_path / "a")


def test_too_small_a_disk_is_said_before_anything_is_written(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    disk.require_free(tmp_path / "not" / "there" / "yet", free // 2, "capture")
    with pytest.raises(StoreError, match=r"capture needs .* GB, .* GB are free; free some space"):
        disk.require_free(tmp_path / "store", free * 2, "capture")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_in_the_middle_names_the_folder_and_leaves_nothing_half(tmp_path: Path) -> None:
    script = f"""
    import resource
    from pathlib import Path
    import torch
    from monosem.store import shards
    shards.write(Path({str(tmp_path / "first")!r}), {{"activations": torch.ones(10, 10)}})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        shards.write(Path({str(tmp_path / "second")!r}), {{"activations": torch.ones(1000, 1000)}})
    except OSError as error:
        print(error.errno, error)
    """
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{errno.EFBIG} ")
    assert "no room left on the disk" in done.stdout
    assert str(tmp_path) in done.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["first"]
    assert shards.ShardFile(tmp_path / "first").rows == 10
