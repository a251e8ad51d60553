"""A sweep on the tiny model: the same SAEs as by themselves, one reading of the store, drops and kills survived."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torchrun import finish, script, start

from monosem import pipeline, recipe
from monosem.ranks import Place, Ranks
from monosem.run import Run
from monosem.store.loader import Loader
from monosem.sweep import axes, stage
from monosem.sweep.members import BORROWED, Opened, dealt

AXES = ["--sae.k", "2,4", "--sae.sparsity", "topk,batchtopk", "--evaluate.sentences", "8"]


@pytest.fixture(scope="module")
def swept(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    path = tmp_path_factory.mktemp("sweep") / "tiny"
    return path, stage.make(path, axes.read(recipe.load(tiny_recipe), AXES))


def with_batches_of(swept: tuple[Path, list[dict]], path: Path) -> Path:
    """A run folder that borrows the batches of another, as a sweep's members do."""
    path.mkdir()
    for name in BORROWED:
        (path / name).symlink_to(swept[0] / name, target_is_directory=True)
    return path


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
    alone = Run(with_batches_of(swept, tmp_path / "alone"), member.recipe)
    pipeline.make(alone, ["train"])
    ours, theirs = (load_file(run.path / "sae" / "final" / "sae.safetensors") for run in (member, alone))
    assert ours.keys() == theirs.keys()
    assert all(bool((ours[name] == theirs[name]).all()) for name in ours)
    assert (member.path / "metrics.jsonl").read_bytes() == (alone.path / "metrics.jsonl").read_bytes()
    made = pipeline.make(member, ["examples"])  # a member is a run like any other
    assert made["examples"].complete


def test_finished_members_are_skipped_and_new_ones_join(
    swept: tuple[Path, list[dict]], tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, rows = tmp_path / "tiny", swept[1]
    shutil.copytree(swept[0], path, symlinks=True)
    more = axes.read(recipe.load(tiny_recipe), ["--sae.k", "2,4,6", *AXES[2:]])
    again = stage.make(path, more)
    assert len(again) == 6
    assert [row for row in again if row["sae.k"] != "6"] == [
        row | {"pareto": new["pareto"]} for row, new in zip(rows, again, strict=False)
    ]
    assert "sweep: 2 SAEs in one pass: k6-sparsity-topk, k6-sparsity-batchtopk" in capsys.readouterr().err


def test_the_store_is_read_once(
    swept: tuple[Path, list[dict]], tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    following = Loader.__next__

    def counted(loader: Loader):
        read.append(loader)
        return following(loader)

    monkeypatch.setattr(Loader, "__next__", counted)
    sweep = axes.read(recipe.load(tiny_recipe), ["--sae.k", "1,2,3", "--train.epochs", "1", *AXES[4:]])
    stage.make(with_batches_of(swept, tmp_path / "once"), sweep)
    metrics = (tmp_path / "once" / "sweep" / "k3" / "metrics.jsonl").read_text().splitlines()
    assert len(read) == json.loads(metrics[-1])["step"]
    assert len(set(map(id, read))) == 1


def test_an_sae_that_diverges_is_dropped_and_the_others_go_on(
    swept: tuple[Path, list[dict]], tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_batches_of(swept, tmp_path / "tiny")
    sweep = axes.read(recipe.load(tiny_recipe), ["--train.lr", "3e-3,1e30", "--train.epochs", "1", *AXES[4:]])
    good, bad = stage.make(path, sweep)
    assert good["fvu"] < 1
    assert bad["fvu"] is None
    assert bad["note"] == "diverged"
    assert "lr1e30: dropped, step" in capsys.readouterr().err
    assert "the loss is" in (path / "sweep" / "lr1e30" / "diverged.txt").read_text()
    assert stage.make(path, sweep) == [good, bad]


IN_RANKS = """
from pathlib import Path
from monosem import recipe
from monosem.store.loader import Loader
from monosem.sweep import axes, stage
read, following = [], Loader.__next__
def counted(loader):
    read.append(loader)
    return following(loader)
Loader.__next__ = counted
sweep = axes.read(recipe.load(Path({recipe!r})), {axes!r})
rows = stage.make(Path({path!r}), sweep, ranks)
print(len(read), len(set(map(id, read))), [row["name"] for row in rows])
"""
MADE = ("sae/final/sae.safetensors", "metrics.jsonl", "measured/measured.json")


@pytest.mark.slow
def test_ranks_share_the_saes_out_to_the_same_bytes(
    swept: tuple[Path, list[dict]], tiny_recipe: Path, tmp_path: Path
) -> None:
    path, rows = swept
    names = [row["name"] for row in rows]
    often = [*AXES, "--train.checkpoint_minutes", "0.001"]
    program = script(IN_RANKS.format(recipe=str(tiny_recipe), axes=often, path=str(tmp_path / "tiny")))
    members = tmp_path / "tiny" / "sweep"
    killed = start(program, 2)
    while not list(members.glob(f"{names[-1]}/sae/step-*/trainer.json")) and killed[1].poll() is None:
        time.sleep(0.002)
    killed[1].kill()
    _, complaint = killed[0].communicate(timeout=60)
    assert "rank 0 of 2 lost another one at 'sweep: " in complaint
    killed[1].communicate()

    told = [text.split(maxsplit=2) for text in finish(start(program, 2))]
    assert [text[2] for text in told] == [f"{names}\n"] * 2
    assert all(int(loaders) <= 1 for _, loaders, _ in told)  # each rank read the store once at most
    same_files(members, path / "sweep", names)

    shutil.rmtree(members / names[1])
    assert stage.make(tmp_path / "tiny", axes.read(recipe.load(tiny_recipe), often)) == rows
    same_files(members, path / "sweep", names)


def same_files(ours: Path, theirs: Path, names: list[str]) -> None:
    for file in ("table.csv", "table.json", "pareto.png", *(f"{name}/{file}" for name in names for file in MADE)):
        assert (ours / file).read_bytes() == (theirs / file).read_bytes(), file


def test_ranks_are_dealt_like_loads(swept: tuple[Path, list[dict]], tiny_recipe: Path) -> None:
    path, _ = swept
    sweep = axes.read(recipe.load(tiny_recipe), ["--sae.n", "64,512,128,256", "--sae.k", "1,2"])
    opened = [Opened(one, Run(path, one.recipe), None) for one in sweep.members]  # type: ignore[arg-type]
    hands = [dealt(opened, Ranks(Place(rank, 3))) for rank in range(3)]
    assert sorted(one.name for hand in hands for one in hand) == sorted(one.name for one in opened)
    loads = [sum(one.run.recipe.sae.n for one in hand) for hand in hands]
    assert max(loads) - min(loads) <= 128
    assert dealt(opened, Ranks()) == opened
    assert dealt(opened[:1], Ranks(Place(2, 3))) == []


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
