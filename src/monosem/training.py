"""The stage `sae` with the source that its recipe asks for: this is where a language model may meet training."""

from collections.abc import Sequence

from monosem.corpus import sentences
from monosem.errors import RecipeError
from monosem.live import Live
from monosem.lm.source import open_model
from monosem.recipe import Recipe
from monosem.run import Run, Stage
from monosem.train import loop
from monosem.train.loop import open_stage
from monosem.train.parallel import mesh_of
from monosem.train.source import Source

__all__ = ["check", "fits", "make", "open_source", "open_stage"]


def check(run: Run, verbs: Sequence[str], redo: str | None) -> None:
    """Whether the ranks that were started can train together. Raises as `fits`."""
    del redo
    if "train" in verbs:
        fits(run.recipe, run.ranks.world)


def fits(recipe: Recipe, world: int) -> None:
    """Whether so many processes can train a recipe's SAE together.

    Raises:
        RecipeError: they do not fit the mesh, or the source is a language model, which one process reads.
    """
    mesh_of(recipe, world)
    if recipe.train.source == "live" and world > 1:
        raise RecipeError(
            f"train.source = 'live' trains in one process, and {world} were started; "
            "leave torchrun out, or store the activations (train.source = 'stored')"
        )


def make(run: Run) -> Stage:
    """Train the SAE, or go on from the last checkpoint.

    Raises:
        RunError: what is read has not been made.
        MonosemError: as the source, and as training.
    """
    stage = open_stage(run)
    return stage if stage.complete else loop.make(run, open_source(run))


def open_source(run: Run) -> Source:
    """The activations that the run's SAE is trained on.

    Raises:
        RunError: the batches, or the sentences, have not been made.
        MonosemError: as the store, or the model.
    """
    if run.recipe.train.source == "stored":
        return loop.stored(run)
    sentences.open_stage(run).require()
    return Live(run, open_model(run.recipe.model))
