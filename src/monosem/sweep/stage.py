"""A sweep, whole: the activations of its run, all SAEs in one pass over them, the figures of each, the table.

An SAE whose loss is not finite is dropped with a note, and the others go on. Finished members are skipped; an
interrupted sweep continues where its checkpoints are, to the same bytes. Several ranks share the SAEs out: each trains
and measures its own in one pass, and rank 0 makes the table.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monosem import pipeline, progress, training
from monosem.atomic import write_text
from monosem.errors import TrainingError
from monosem.ranks import WEEK, Ranks
from monosem.run import Run
from monosem.sweep import measure, table
from monosem.sweep.axes import Sweep
from monosem.sweep.members import FOLDER, Opened, dealt, open_member
from monosem.train import loop
from monosem.train.trainer import Trainer

UPSTREAM = {"stored": ("sentences", "capture", "prepare"), "live": ("sentences",)}


def make(path: Path, sweep: Sweep, ranks: Ranks | None = None) -> list[dict[str, Any]]:
    """Train and measure every member; returns the rows of the table, which is in `RUN/sweep/` as well.

    Args:
        ranks: who shares the members out. None: this process makes all of them.

    Raises:
        MonosemError: as the stages; on several ranks also where one of them was lost.
    """
    base = Run(path, sweep.recipe, ranks)
    together = base.ranks
    together.device(sweep.recipe.train.device)  # one GPU for all is refused before anything is made
    together.agree("sweep", {one.recipe.name: one.recipe.model_dump(mode="json") for one in sweep.members})
    pipeline.make(base, UPSTREAM[sweep.recipe.train.source])
    with base.lock():
        mine = dealt([member for member in _open(base, sweep) if member.open], together)
        train(mine)
        together.barrier("sweep: training", WEEK)
        opened = _open(base, sweep)
        for member in opened:
            if member.failure.exists() and together.world > 1 and member.name not in {own.name for own in mine}:
                progress.note(f"  {member.name}: dropped, {member.failure.read_text(encoding='utf-8').strip()}")
        figures = measure.make(base, [member for member in opened if member.stage.complete])
        rows = table.rows(opened, figures)
        together.once("sweep: table", lambda: table.write(base.path / FOLDER, rows))
    return rows


def _open(base: Run, sweep: Sweep) -> list[Opened]:
    """All members; rank 0 makes the folders that are not there, before the others look."""
    if base.ranks.world > 1:
        base.ranks.once("sweep: members", lambda: [open_member(base, member).name for member in sweep.members])
    return [open_member(base, member) for member in sweep.members]


def train(members: Sequence[Opened]) -> None:
    """Make all steps that are left, each batch being read once."""
    if not members:
        progress.note("  no SAE is left to train here")
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
