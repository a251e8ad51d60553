"""The Training tab's HTML: how far runs are, and their curves. Pure functions of files that may still grow.

A line of `metrics.jsonl` that is half written is left out until it is whole. The files hold no times, so that two runs
give the same bytes; throughput is read off the times at which the intervals of the tracking were written.
"""

import contextlib
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from monosem.app.page.drawing import Line, line_chart
from monosem.app.page.library import OpenRun
from monosem.app.page.missing import command
from monosem.app.page.render import render
from monosem.app.page.tracks import Interval, cut_short
from monosem.errors import MonosemError
from monosem.run import Manifest, read_manifest

COPY_SECONDS = 60.0  # later than the end of training, a file is a copy
QUIET_SECONDS = 600.0  # without a new line, after which an unfinished run counts as stopped
CURVES = {
    "Loss": (("loss", False),),
    "FVU": (("fvu", False), ("validation_fvu", True)),
    "Active latents (L0)": (("l0", False),),
    "Dead latents": (("dead", False),),
    "Learning rate": (("lr", False),),
}
LOGARITHMIC = ("FVU", "Loss")
LABELS = {"validation_fvu": "validation"}


class Progress(NamedTuple):
    """How far a run is."""

    name: str
    command: str
    """That trains it."""
    state: str
    """`finished`, `in progress`, `stopped`, or `not begun`."""
    step: int | None
    share: float | None
    """Of its epochs."""
    figures: dict[str, float | None]
    rate: float | None
    """Activations a second, over the last intervals."""


def training_view(runs: Sequence[OpenRun]) -> str:
    """A table of the runs and a chart for each figure, a colour for each run."""
    metrics = {run.name: read_metrics(run.run.path / "metrics.jsonl") for run in runs}
    intervals = {run.name: run.files.tracks.intervals() for run in runs}
    trained = {run.name: _trained(run) for run in runs}
    measured = {name: [] if copied(found, trained[name]) else rates(found) for name, found in intervals.items()}
    charts = [*_curves(metrics), *_tracked(intervals), _throughput(measured)]
    progress = [_progress(run, metrics[run.name], trained[run.name], measured[run.name]) for run in runs]
    return render("training", runs=progress, charts=[chart for chart in charts if chart])


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The whole lines of a `metrics.jsonl` that may be in the middle of being written."""
    rows = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get("step"), int):
                    rows.append(row)
    return rows


def stamp(runs: Sequence[OpenRun]) -> tuple[Any, ...]:
    """Changes whenever there is something new to be drawn."""
    found = []
    for run in runs:
        for path in (run.run.path / "metrics.jsonl", run.run.path / "tracking", run.run.path / "sae" / "manifest.json"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                found.append((run.name, path.name, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def rates(intervals: Sequence[Interval]) -> list[tuple[int, float]]:
    """(last step, activations a second) of every interval but the first, whose beginning no file tells."""
    return [
        (after.step, after.activations / (after.written - before.written))
        for before, after in itertools.pairwise(intervals)
        if after.written > before.written
    ]


def copied(intervals: Sequence[Interval], trained: Manifest | None) -> bool:
    """Whether the files are younger than the end of training: then their times are those of a copy."""
    if trained is None or not intervals:
        return False
    return intervals[-1].written > datetime.fromisoformat(trained.finished).timestamp() + COPY_SECONDS


def _trained(run: OpenRun) -> Manifest | None:
    """The manifest of a run that is trained."""
    try:
        manifest = read_manifest(run.run.path / "sae")
    except MonosemError:
        return None
    return manifest if manifest is not None and manifest.complete else None


def _progress(
    run: OpenRun, rows: Sequence[dict[str, float]], trained: Manifest | None, measured: Sequence[tuple[int, float]]
) -> Progress:
    metrics = run.run.path / "metrics.jsonl"
    if trained is not None:
        state = "finished"
    elif not rows:
        state = "not begun"
    else:
        state = "in progress" if time.time() - metrics.stat().st_mtime < QUIET_SECONDS else "stopped"
    last = rows[-1] if rows else {}
    figures = {key: _last(rows, key) for key in ("loss", "validation_fvu", "l0", "dead")}
    share = last["epoch"] / run.run.recipe.train.epochs if "epoch" in last else None
    recent = measured[-5:]
    rate = sum(one for _, one in recent) / len(recent) if recent else None
    made_by = command(run.run.path, "sae")
    return Progress(run.name, made_by, state, int(last["step"]) if last else None, share, figures, rate)


def _last(rows: Sequence[dict[str, float]], key: str) -> float | None:
    return next((row[key] for row in reversed(rows) if key in row), None)


def _curves(metrics: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    for title, curves in CURVES.items():
        lines = []
        for colour, (name, rows) in enumerate(metrics.items()):
            for key, dashed in curves:
                found = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
                label = f"{name}, {LABELS[key]}" if key in LABELS else name
                if found:
                    lines.append(Line(label, *zip(*found, strict=True), dashed=dashed, colour=colour))
        yield line_chart(title, lines, log=title in LOGARITHMIC)


def _tracked(tracked: dict[str, list[Interval]]) -> Iterator[str]:
    density, firing = [], []
    for colour, (name, found) in enumerate(tracked.items()):
        intervals = found[:-1] if cut_short([one.activations for one in found]) else found
        steps = [one.step for one in intervals]
        for place, label in enumerate(("5 %", "median", "95 %")):
            shares = [100 * one.quantiles[place] for one in intervals]
            density.append(Line(f"{name}, {label}", steps, shares, dashed=label != "median", colour=colour))
        firing.append(Line(name, steps, [one.fired for one in intervals], colour=colour))
    yield line_chart("Density of the latents that fire", density, log=True, unit="% of tokens")
    yield line_chart("Latents that fire in an interval", firing)


def _throughput(measured: dict[str, list[tuple[int, float]]]) -> str:
    lines = [
        Line(name, [step for step, _ in found], [rate for _, rate in found], colour=colour)
        for colour, (name, found) in enumerate(measured.items())
    ]
    return line_chart("Throughput", lines, unit="activations a second")
