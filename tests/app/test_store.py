"""`monosem store`: what each action prints, as a table and as JSON, and exit code 2 for a store that is not whole."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from source_store import Made, make_store

from monosem.cli import main

ErrorLine = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path) -> Made:
    return make_store(tmp_path / "run", dtype=torch.int8)


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    main(["store", *argv])
    return capsys.readouterr().out


def test_verify_says_that_all_is_whole(store: Made, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(store.stage.path)
    assert "whole, 4 shards" in printed(capsys, "verify", path)
    assert json.loads(printed(capsys, "verify", path, "--json"))["damaged"] == {}


def test_verify_names_every_damaged_and_missing_shard(store: Made, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (store.stage.path / store.stage.shards[number].name for number in (0, 2))
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    second.unlink()
    for argv in (["verify", str(store.stage.path)], ["verify", str(store.stage.path), "--json"]):
        with pytest.raises(SystemExit) as exit_:
            main(["store", *argv])
        assert exit_.value.code == 2
        shown = capsys.readouterr()
        last = shown.err.strip().splitlines()[-1]
        assert "2 of 4 shards damaged or missing: activations-00000.safetensors, activations-00002" in last
        assert f"{first}: damaged" in shown.out
        assert f"{second}: missing" in shown.out


def test_ls_lists_every_shard(store: Made, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(store.stage.path)
    listed = json.loads(printed(capsys, "ls", path, "--json"))
    assert [row["name"] for row in listed] == [shard.name for shard in store.stage.shards]
    assert {row["dtype"] for row in listed} == {"int8"}
    assert sum(row["rows"] for row in listed) == len(store.rows.token)
    shown = printed(capsys, "ls", path)
    assert all(shard.name in shown for shard in store.stage.shards)


def test_stats_measures_what_is_stored(store: Made, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "stats", str(store.stage.path), "--json"))
    x = store.rows.activations.double()
    assert (found["rows"], found["measured"], found["d"], found["dtype"]) == (len(x), len(x), 24, "int8")
    assert found["mean_norm"] == pytest.approx(float(x.norm(dim=1).mean()), rel=0.006)
    assert found["total_variance"] == pytest.approx(float(x.var(dim=0, correction=0).sum()), rel=1e-9)
    assert found["hook_point"] == "1.resid_post"
    assert "norm threshold" in printed(capsys, "stats", str(store.stage.path))


def test_pack_and_merge_say_what_they_made(store: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "packed")
    made = json.loads(printed(capsys, "pack", str(store.stage.path), target, "--json"))
    assert (made["archives"], made["shards"], made["kept"]) == (1, 4, 0)
    assert "1 of them there already" in printed(capsys, "pack", str(store.stage.path), target)
    assert json.loads(printed(capsys, "ls", target, "--json"))[0]["archive"] == "shards-00000.tar"


def test_mistakes_are_one_line(store: Made, tmp_path: Path, error_line: ErrorLine) -> None:
    assert "no finished store" in error_line("store", "verify", str(tmp_path / "nothing"))
    assert "at least two stores" in error_line("store", "merge", str(tmp_path / "new"), str(store.stage.path))
    assert "--gb 0.0: expected more than 0" in error_line("store", "pack", str(store.stage.path), "x", "--gb", "0")
    assert "lies among those of" in error_line(
        "store", "merge", str(tmp_path / "new"), str(store.stage.path), str(store.stage.path)
    )
