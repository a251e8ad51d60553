"""What the first argument of a verb names: a recipe, or a run."""

from pathlib import Path
from typing import Protocol

from monosem import recipe, run
from monosem.errors import RecipeError, RunError
from monosem.recipe import Recipe
from monosem.run import Run


def recipe_of(target: str, runs: Path) -> Recipe:
    """The recipe that a target names: a TOML file, or the one kept in a run folder."""
    folder = run.resolve(target, runs)
    if folder is not None:
        return recipe.load(folder / "recipe.toml")
    if target.endswith(".toml") or Path(target).is_file():
        return recipe.load(Path(target))
    raise RecipeError(f"{target}: neither a recipe nor a run folder; try recipes/demo.toml, or a folder below {runs}/")


def run_path(target: str, runs: Path, name: str) -> Path:
    """A run folder that is named keeps its place unless another name is given; a recipe's run lies below `runs`."""
    folder = run.resolve(target, runs)
    if folder is not None and name == recipe.load(folder / "recipe.toml").name:
        return folder
    return runs / name


def folder_of(target: str, runs: Path) -> Path:
    """The folder of a run.

    Raises:
        RunError: there is none.
    """
    folder = run.resolve(target, runs)
    if folder is None:
        raise RunError(f"{target}: not a run folder (no recipe.toml); make one with: monosem run RECIPE")
    return folder


class OfRun(Protocol):
    """The arguments of a verb that reads a finished run."""

    @property
    def target(self) -> str: ...
    @property
    def runs(self) -> Path: ...


def opened(arguments: OfRun) -> Run:
    """The run that a verb reads.

    Raises:
        RunError: there is none.
    """
    return Run.open(folder_of(arguments.target, arguments.runs))
