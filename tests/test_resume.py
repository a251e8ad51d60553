"""`kill -9` in the middle of every stage, then the same command: the files of an uninterrupted run, byte for byte."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monosem.pipeline import PIPELINE, Step

TIMES = ("started", "finished", "seconds")


def content(run: Path) -> dict[str, bytes]:
    """Every file of a run, without the times in manifests."""
    files = {}
    for path in sorted(run.rglob("*")):
        if path.is_file() and path.name != ".lock":
            data = path.read_bytes()
            if path.name == "manifest.json":
                manifest = json.loads(data)
                data = json.dumps({key: value for key, value in manifest.items() if key not in TIMES}).encode()
            files[path.relative_to(run).as_posix()] = data
    return files


def start(recipe: Path, runs: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "monosem", "run", str(recipe), "--runs", str(runs)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, process_group=0)


def kill_within(step: Step, recipe: Path, runs: Path, delay: float) -> bool:
    """Start the run, and kill it `delay` seconds after the stage began. False: it ended before."""
    folder = runs / "tiny" / step.folder
    process = start(recipe, runs)
    while process.poll() is None and not any(folder.rglob("manifest.json")):
        time.sleep(0.002)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_run_killed_in_every_stage_ends_with_the_same_bytes(tiny_recipe: Path, tmp_path: Path) -> None:
    every = tmp_path / "every.toml"
    every.write_text(tiny_recipe.read_text() + "[finetune]\ntokens = 3000\nbatch_tokens = 100\nlr = 1e-3\n")
    whole = start(every, tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr and whole.stderr.read()
    assert whole.stderr is not None
    whole.stderr.close()
    draw = random.Random(1)
    killed = {}
    for step in PIPELINE:
        delay = {"train": 1.5, "evaluate": 0.8}.get(step.verb, 0.0) + draw.random() * 0.05
        killed[step.verb] = kill_within(step, every, tmp_path / "parts", delay)
    assert sum(killed.values()) >= len(PIPELINE) - 2, killed
    last = start(every, tmp_path / "parts")
    _, told = last.communicate()
    assert last.returncode == 0, told
    expected, found = content(tmp_path / "whole" / "tiny"), content(tmp_path / "parts" / "tiny")
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.slow
def test_a_signal_ends_training_with_a_checkpoint(tiny_recipe: Path, tmp_path: Path) -> None:
    process = start(tiny_recipe, tmp_path)
    metrics = tmp_path / "tiny" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > 200):
        time.sleep(0.01)
    process.terminate()
    _, told = process.communicate()
    assert process.returncode == 130
    assert "stopped by SIGTERM; checkpoint at step" in told
    assert list((tmp_path / "tiny" / "sae").glob("step-*/sae.safetensors"))
