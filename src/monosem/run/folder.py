"""The run folder: its recipe, where each stage's files lie, and the lock that keeps a second process out."""

import contextlib
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monosem import recipe as recipes
from monosem.atomic import remove_leftovers, write_text
from monosem.errors import RunError
from monosem.ranks import Ranks
from monosem.recipe import Recipe
from monosem.run.stage import Stage


class Run:
    """A run folder and the recipe that made it, and the ranks that work on it."""

    def __init__(self, path: Path, recipe: Recipe, ranks: Ranks | None = None) -> None:
        """Open a run.

        Args:
            ranks: None: this process alone.
        """
        self.path, self.recipe, self.ranks = path, recipe, ranks or Ranks()

    def save_recipe(self) -> None:
        """Write the resolved recipe into the folder; called once the lock is held and no stage objects to it."""
        file, text = self.path / "recipe.toml", recipes.dump(self.recipe)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            write_text(file, text)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Open a folder that a run made.

        Raises:
            RunError: `path` is not a run folder.
        """
        file = path / "recipe.toml"
        if not file.is_file():
            raise RunError(f"{path}: not a run folder (no recipe.toml); make one with: monosem run RECIPE")
        return cls(path, recipes.load(file))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder for the ranks of this run: rank 0 takes it, the others hold it with rank 0.

        Raises:
            RunError: another process holds it, such as a rank of an earlier start; or a rank does not see it.
        """
        with contextlib.ExitStack() as held:
            holder = self.ranks.once("the run folder", lambda: self._hold(held))
            if not self.ranks.first:
                self._hold_too(held, holder)
            self.ranks.barrier("the run folder")
            yield
        self.ranks.barrier("the end of work in the run folder")  # who takes it next finds that all have let it go

    def _hold(self, held: contextlib.ExitStack) -> str:
        self.path.mkdir(parents=True, exist_ok=True)
        file = held.enter_context((self.path / ".lock").open("a+", encoding="utf-8"))
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            other = file.read().strip() or "another process"
            raise RunError(f"{self.path}: in use by {other}; wait for it, or give this run its own --name") from None
        held.callback(file.truncate, 0)
        file.truncate(0)
        file.write(holder)
        file.flush()
        remove_leftovers(self.path)
        if self.ranks.world > 1:
            fcntl.flock(file, fcntl.LOCK_SH)
        return holder

    def _hold_too(self, held: contextlib.ExitStack, holder: str) -> None:
        """A rank that outlives the others keeps a second start out, which would find files still being written."""
        file = self.path / ".lock"
        if not file.exists() or file.read_text(encoding="utf-8") != holder:
            raise RunError(
                f"{self.path}: rank {self.ranks.rank} on {socket.gethostname()} sees another folder than rank 0; "
                "keep the runs on a disk that all machines share"
            )
        fcntl.flock(held.enter_context(file.open(encoding="utf-8")), fcntl.LOCK_SH)

    def folder(self, name: str, hook_point: str | None = None) -> Path:
        """Path of a stage's folder: `activations` and `batches` have one for each hook point."""
        return self.path / name / hook_point if hook_point else self.path / name

    @property
    def sae_folder(self) -> Path:
        """Where the run's SAE is, once it is made: the fine-tuned one where the recipe asks for it."""
        return self.folder("finetune" if self.recipe.finetune.wanted else "sae") / "final"

    def stage(self, folder: Path, part: Mapping[str, Any], inputs: Mapping[str, str] | Sequence["Stage"] = ()) -> Stage:
        """Open a stage folder to make or skip it.

        Args:
            folder: from `self.folder`.
            part: the recipe keys that decide its bytes (`Section.fingerprint_part`).
            inputs: the stages it reads, or names and fingerprints.

        Raises:
            RunError: its files were made with other keys or inputs.
        """
        if not isinstance(inputs, Mapping):
            inputs = {stage.path.relative_to(self.path).as_posix(): stage.fingerprint for stage in inputs}
        return Stage(folder, folder.relative_to(self.path).parts[0], part, inputs)

    def remove(self, stages: Sequence[str]) -> list[str]:
        """Delete the folders of `stages`; returns the names that were there."""
        there = [name for name in stages if (self.path / name).exists()]
        for name in there:
            shutil.rmtree(self.path / name)
        return there


def resolve(target: str, runs: Path) -> Path | None:
    """The run folder that `target` names: a folder, or a name below `runs`. None: it is neither."""
    for path in (Path(target), runs / target):
        if (path / "recipe.toml").is_file():
            return path
    return None
