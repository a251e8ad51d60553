"""The training stage under torchrun: another number of ranks at every start, a rank that is killed, two machines."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torchrun import free_port

from monosem import pipeline, progress, recipe
from monosem.run import Run
from monosem.sae import files

KEYS = ("--train.precision", "float32", "--train.log-points", "1000", "--train.checkpoint-minutes", "0.002")


@pytest.fixture(scope="module")
def prepared(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with batches, and no SAE."""
    path = tmp_path_factory.mktemp("prepared") / "tiny"
    pipeline.make(Run(path, recipe.load(tiny_recipe)), ("sentences", "capture", "prepare"))
    return path


@pytest.fixture
def runs(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "tiny")
    return tmp_path


@pytest.fixture(scope="module")
def expected(prepared: Path, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """The metrics of one process that nothing interrupts."""
    runs = tmp_path_factory.mktemp("one")
    shutil.copytree(prepared, runs / "tiny")
    alone = train(tiny_recipe, runs, 1)
    _, told = alone.communicate(timeout=120)
    assert alone.returncode == 0, told
    return metrics(runs)


def train(tiny_recipe: Path, runs: Path, ranks: int, *more: str, launch: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start training; `launch`: torchrun's own arguments, after the number of processes."""
    command = ["-m", "monosem", "train", str(tiny_recipe), "--runs", str(runs), *KEYS, *more]
    if ranks > 1 or launch:
        launch = launch or ("--master-port", str(free_port()))
        command = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), *launch, *command]
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def metrics(runs: Path) -> list[dict[str, float]]:
    return progress.read_metrics(runs / "tiny" / "metrics.jsonl")


def checkpoints(runs: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (runs / "tiny" / "sae").glob("step-*[0-9]"))


def until_checkpoint(process: subprocess.Popen[str], runs: Path, after: int = 0, seconds: float = 60) -> int:
    """Wait for a checkpoint after step `after`; returns its step."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if found := [step for step in checkpoints(runs) if step > after]:
            return found[-1]
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint after step {after}: {process.communicate()[1][-3000:]}")


def same_curve(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert [row["step"] for row in found] == [row["step"] for row in expected]  # nothing twice, nothing missing
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["dead"] == theirs["dead"]


@pytest.mark.slow
def test_four_ranks_then_two_then_one_go_on_as_if_nothing_had_happened(
    tiny_recipe: Path, runs: Path, expected: list[dict[str, float]]
) -> None:
    reached = 0
    for ranks in (4, 2):
        process = train(tiny_recipe, runs, ranks)
        until_checkpoint(process, runs, reached)
        process.terminate()  # torchrun hands the signal on to every rank
        _, told = process.communicate(timeout=60)
        assert process.returncode != 0
        stopped = re.search(r"stopped by SIGTERM; checkpoint at step (\d+)", told)
        assert stopped, told
        assert checkpoints(runs) == [int(stopped[1])] > [reached]
        reached = int(stopped[1])
        assert metrics(runs)[-1]["step"] <= reached
    last = train(tiny_recipe, runs, 1)
    _, told = last.communicate(timeout=120)
    assert last.returncode == 0, told
    assert f"going on after step {reached}" in told
    same_curve(metrics(runs), expected)
    assert files.load(runs / "tiny" / "sae" / "final").W_enc.shape == (64, 32)
    assert checkpoints(runs) == []


@pytest.mark.slow
def test_a_checkpoint_of_one_process_is_taken_up_by_two(
    tiny_recipe: Path, runs: Path, expected: list[dict[str, float]]
) -> None:
    process = train(tiny_recipe, runs, 1)
    until_checkpoint(process, runs)
    process.kill()
    process.communicate()
    two = train(tiny_recipe, runs, 2, "--train.mesh", "2", "1")
    _, told = two.communicate(timeout=120)
    assert two.returncode == 0, told
    same_curve(metrics(runs), expected)


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of what torchrun started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_soon_with_one_line_and_it_goes_on(
    tiny_recipe: Path, runs: Path, expected: list[dict[str, float]]
) -> None:
    process = train(tiny_recipe, runs, 2)
    until_checkpoint(process, runs)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    begun = time.monotonic()
    _, told = process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - begun < 40
    lines = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, told
    assert re.match(r"error: rank 0 of 2 lost another one at 'training: .*give the same command again", lines[0])
    again = train(tiny_recipe, runs, 2)
    _, told = again.communicate(timeout=120)
    assert again.returncode == 0, told
    assert "going on after step" in told
    same_curve(metrics(runs), expected)


@pytest.mark.slow
def test_torchrun_starts_the_ranks_again_and_they_go_on(
    tiny_recipe: Path, runs: Path, expected: list[dict[str, float]]
) -> None:
    process = train(tiny_recipe, runs, 2, launch=("--max-restarts", "1", "--master-port", str(free_port())))
    until_checkpoint(process, runs)
    os.kill(ranks_of(process)[0], signal.SIGKILL)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert "going on after step" in told
    same_curve(metrics(runs), expected)


@pytest.mark.slow
def test_two_machines_meet_over_tcp(tiny_recipe: Path, runs: Path, expected: list[dict[str, float]]) -> None:
    """Two launchers with an address each, as on two machines; they share the disk."""
    meeting = ("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "job")
    endpoint = f"127.0.0.1:{free_port()}"
    machines = [
        train(tiny_recipe, runs, 1, launch=(*meeting, "--rdzv-endpoint", endpoint, "--local-addr", f"127.0.0.{number}"))
        for number in (1, 2)
    ]
    for machine in machines:
        _, told = machine.communicate(timeout=120)
        assert machine.returncode == 0, told
    same_curve(metrics(runs), expected)


@pytest.mark.slow
def test_a_rank_s_missing_shard_is_named(tiny_recipe: Path, runs: Path) -> None:
    process = train(tiny_recipe, runs, 2)
    until_checkpoint(process, runs)
    process.terminate()
    process.communicate(timeout=60)
    (step,) = checkpoints(runs)
    folder = runs / "tiny" / "sae" / f"step-{step:08d}"
    next(folder.glob("__1_*.distcp")).unlink()
    for ranks in (2, 1):
        again = train(tiny_recipe, runs, ranks)
        _, told = again.communicate(timeout=60)
        assert again.returncode != 0
        assert re.search(rf"error: .*{folder.name}: damaged checkpoint \(.*; delete this folder to go on", told), told


@pytest.mark.slow
def test_ranks_with_other_recipes_are_refused(tiny_recipe: Path, runs: Path) -> None:
    port = str(free_port())
    meeting = ("--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", port, "--node-rank")
    machines = [
        train(tiny_recipe, runs, 1, "--train.lr", lr, launch=(*meeting, str(number)))
        for number, lr in enumerate(("0.003", "0.004"))
    ]
    for machine in machines:
        _, told = machine.communicate(timeout=60)
        assert "ranks 0 and 1 differ in recipe: train.lr is 0.003 and 0.004" in told
        assert machine.returncode != 0
    assert json.loads((runs / "tiny" / "batches" / "1.resid_post" / "manifest.json").read_text())["complete"]
