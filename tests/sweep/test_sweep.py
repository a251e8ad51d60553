"""A sweep on the tiny model: the same SAEs as by themselves, one reading of the store, drops and kills survived."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from monosem import pipeline, recipe
from monosem.run import Run
from monosem.store.loader import Loader
from monosem.sweep import axes, stage

AXES = ["--sae.k", "2,4", "--sae.sparsity", "topk,batchtopk", "--evaluate.sentences", "8"]


@pytest.fixture(scope="module")
def swept(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    path = tmp_path_factory.mktemp("sweep") / "tiny"
    return path, stage.make(path, axes.read(recipe.load(tiny_recipe), AXES))


def test_the_table_and_the_plot_are_there(swept: tuple[Path, list[dict]]) -> None:
    path, rows = swept
    assert json.loads((path / "sweep" / "table.json").read_text()) == rows
    assert (path / "sweep" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    with (path / "sweep" / "table.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["name"] for row in written] == [row["name"] for row in rows] == [
        "k2-sparsity-topk", "k2-sparsity-batchtopk", "k4-sparsity-topk", "k4-sparsity-batchtopk",
    ]  # fmt: skip
    for row in rows:
        assert row["l0"] == pytest.approx(int(row["sae.k"]), rel=0.3)
        assert 0 < row["fvu"] < 1
        assert row["ce_recovered_zero"] < 1
        assert row["note"] == ""
    topk = {row["sae.k"]: row for row in rows if row["sae.sparsity"] == "topk"}
    assert topk["4"]["fvu"] < topk["2"]["fvu"]
    assert any(row["pareto"] for row in rows)
    front = [row for row in rows if row["pareto"]]
    assert not any(a["fvu"] < b["fvu"] and a["l0"] < b["l0"] for a in front for b in front)


def test_a_member_is_the_sae_of_a_run_of_its_own(swept: tuple[Path, list[dict]], tmp_path: Path) -> None:
    path, _ = swept
    member = Run.open(path / "sweep" / "k4-sparsity-topk")
    alone = Run(tmp_path / "alone", member.recipe)
    pipeline.make(alone, ["sentences", "capture", "prepare", "train"])
    ours, theirs = (load_file(run.path / "sae" / "final" / "sae.safetensors") for run in (member, alone))
    assert ours.keys() == theirs.keys()
    assert all(bool((ours[name] == theirs[name]).all()) for name in ours)
    assert (member.path / "metrics.jsonl").read_bytes() == (alone.path / "metrics.jsonl").read_bytes()
    made = pipeline.make(member, ["examples"])  # a member is a run like any other
    assert made["examples"].complete


def test_finished_members_are_skipped_and_new_ones_join(
    swept: tuple[Path, list[dict]], tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, rows = swept
    more = axes.read(recipe.load(tiny_recipe), ["--sae.k", "2,4,6", *AXES[2:]])
    again = stage.make(path, more)
    assert len(again) == 6
    assert [row for row in again if row["sae.k"] != "6"] == [
        row | {"pareto": new["pareto"]} for row, new in zip(rows, again, strict=False)
    ]
    assert "sweep: 2 SAEs in one pass: k6-sparsity-topk, k6-sparsity-batchtopk" in capsys.readouterr().err


def test_the_store_is_read_once(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    following = Loader.__next__

    def counted(loader: Loader):
        read.append(loader)
        return following(loader)

    monkeypatch.setattr(Loader, "__next__", counted)
    sweep = axes.read(recipe.load(tiny_recipe), ["--sae.k", "1,2,3", "--train.epochs", "1", *AXES[4:]])
    stage.make(tmp_path / "once", sweep)
    metrics = (tmp_path / "once" / "sweep" / "k3" / "metrics.jsonl").read_text().splitlines()
    assert len(read) == json.loads(metrics[-1])["step"]
    assert len(set(map(id, read))) == 1


def test_an_sae_that_diverges_is_dropped_and_the_others_go_on(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = axes.read(recipe.load(tiny_recipe), ["--train.lr", "3e-3,1e30", "--train.epochs", "1", *AXES[4:]])
    good, bad = stage.make(tmp_path / "tiny", sweep)
    assert good["fvu"] < 1
    assert bad["fvu"] is None
    assert bad["note"] == "diverged"
    assert "lr1e30: dropped, step" in capsys.readouterr().err
    assert "the loss is" in (tmp_path / "tiny" / "sweep" / "lr1e30" / "diverged.txt").read_text()
    assert stage.make(tmp_path / "tiny", sweep) == [good, bad]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_sweep_ends_with_the_same_bytes(
    swept: tuple[Path, list[dict]], tiny_recipe: Path, tmp_path: Path, number: signal.Signals
) -> None:
    path, rows = swept
    often = ["--train.checkpoint_minutes", "0.001", "--runs", str(tmp_path), "--json"]
    command = [sys.executable, "-m", "monosem", "sweep", str(tiny_recipe), *AXES, *often]
    members = tmp_path / "tiny" / "sweep"
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: the last bit of a float sum depends on it
    process = subprocess.Popen(command, stderr=subprocess.PIPE, process_group=0, env=one_thread)
    while (
        process.poll() is None
        and len({path.parts[-4] for path in members.glob("*/sae/step-????????/trainer.json")}) < 4
    ):
        time.sleep(0.002)
    os.killpg(process.pid, number)
    _, told = process.communicate()
    assert process.returncode in (-number, 130), told  # 130: after a step, with a checkpoint
    assert not list(members.glob("*/sae/final"))
    again = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    assert again.returncode == 0, again.stderr
    assert "going on after step" in again.stderr
    assert json.loads(again.stdout) == rows
    for row in rows:
        for file in ("sae/final/sae.safetensors", "metrics.jsonl"):
            expected = (path / "sweep" / row["name"] / file).read_bytes()
            assert (members / row["name"] / file).read_bytes() == expected, (row["name"], file)
