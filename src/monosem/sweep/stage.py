"""A sweep, whole: the activations of its run, all SAEs in one pass over them, the figures of each, the table.

An SAE whose loss is not finite is dropped with a note, and the others go on. Finished members are skipped; an
interrupted sweep continues where its checkpoints are, to the same bytes.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monosem import pipeline, progress, training
from monosem.atomic import write_text
from monosem.errors import TrainingError
from monosem.run import Run
from monosem.sweep import measure, table
from monosem.sweep.axes import Sweep
from monosem.sweep.members import FOLDER, Opened, open_member
from monosem.train import loop
from monosem.train.trainer import Trainer

UPSTREAM = {"stored": ("sentences", "capture", "prepare"), "live": ("sentences",)}


def make(path: Path, sweep: Sweep) -> list[dict[str, Any]]:
    """Train and measure every member; returns the rows of the table, which is in `RUN/sweep/` as well.

    Raises:
        MonosemError: as the stages.
    """
    base = Run(path, sweep.recipe)
    pipeline.make(base, UPSTREAM[sweep.recipe.train.source])
    with base.lock():
        members = [open_member(base, member) for member in sweep.members]
        train([member for member in members if member.open])
        opened = [open_member(base, member) for member in sweep.members]
        figures = measure.make(base, [member for member in opened if member.stage.complete])
        rows = table.rows(opened, figures)
        table.write(base.path / FOLDER, rows)
    return rows


def train(members: Sequence[Opened]) -> None:
    """Make all steps that are left, each batch being read once."""
    if not members:
        progress.note("  every SAE is trained already")
        return
    progress.note(f"sweep: {len(members)} SAEs in one pass: {', '.join(member.name for member in members)}")
    source = training.open_source(members[0].run)
    by_run = {member.run.path: member for member in members}

    def drop(trainer: Trainer, error: TrainingError) -> None:
        member = by_run[trainer.run.path]
        write_text(member.failure, f"{error}\n")
        progress.note(f"  {member.name}: dropped, {error}")

    with contextlib.ExitStack() as closing:
        trainers = []
        for member in members:
            member.stage.begin()
            trainer = Trainer(member.run, member.stage, source, console=False)
            closing.callback(trainer.close)
            trainers.append(trainer)
        loop.drive(trainers, source, drop)
        for trainer in trainers:
            if not trainer.failed:
                trainer.finish()
