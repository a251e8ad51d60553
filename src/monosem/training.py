"""The stage `sae` with the source that its recipe asks for: this is where a language model may meet training."""

from monosem.corpus import sentences
from monosem.live import Live
from monosem.lm.source import open_model
from monosem.run import Run, Stage
from monosem.train import loop
from monosem.train.loop import open_stage
from monosem.train.source import Source

__all__ = ["make", "open_source", "open_stage"]


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
