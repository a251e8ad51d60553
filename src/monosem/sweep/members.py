"""The run folders of a sweep's members: `RUN/sweep/MEMBER`, which borrow the activations of the run they are part of.

A member is a run like any other: every verb works on it. Its `sentences`, `activations` and `batches` are links. A
member belongs to one rank alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from monosem.ranks import Ranks
from monosem.run import Run, Stage
from monosem.sweep.axes import Member
from monosem.train import loop

FOLDER = "sweep"
BORROWED = ("sentences", "activations", "batches")


class Opened(NamedTuple):
    """A member and its files."""

    member: Member
    run: Run
    stage: Stage
    """`sae/` of its run."""

    @property
    def name(self) -> str:
        return self.member.recipe.name

    @property
    def failure(self) -> Path:
        """Where it is said why training was given up."""
        return self.run.path / "diverged.txt"

    @property
    def open(self) -> bool:
        """Whether there is training to do."""
        return not self.stage.complete and not self.failure.exists()


def open_member(base: Run, member: Member) -> Opened:
    """The member's run folder, made if need be.

    Raises:
        RunError: there is another SAE in it.
    """
    run = Run(base.path / FOLDER / member.recipe.name, member.recipe)
    run.path.mkdir(parents=True, exist_ok=True)
    for name in BORROWED:
        link = run.path / name
        if not link.is_symlink():
            link.symlink_to(Path("..") / ".." / name, target_is_directory=True)
    stage = loop.open_stage(run)
    run.save_recipe()
    return Opened(member, run, stage)


def dealt(members: Sequence[Opened], ranks: Ranks) -> list[Opened]:
    """Those that fall to this rank: the dearest first, each to whoever has the least so far; in their old order."""
    load, mine = [0.0] * ranks.world, set()
    for member in sorted(members, key=_work, reverse=True):
        taker = load.index(min(load))
        load[taker] += _work(member)
        if taker == ranks.rank:
            mine.add(member.name)
    return [member for member in members if member.name in mine]


def _work(member: Opened) -> float:
    """A measure of the member's training: its latents, in all its steps."""
    return member.run.recipe.sae.n * member.run.recipe.train.epochs
