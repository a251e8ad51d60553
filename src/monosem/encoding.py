"""The stage `codes` with the source that its recipe asks for: this is where a language model may meet latents."""

from monosem.corpus import sentences
from monosem.interpret import encoding
from monosem.interpret.encoding import open_stage
from monosem.live.parts import Parts
from monosem.lm.source import open_model
from monosem.run import Run, Stage

__all__ = ["make", "open_stage"]


def make(run: Run) -> Stage:
    """Encode every activation of the run.

    Raises:
        RunError: what is read has not been made.
        MonosemError: as the store, or the model.
    """
    if run.recipe.train.source == "stored" or open_stage(run).complete:
        return encoding.make(run)
    sentences.open_stage(run).require()
    recipe = run.recipe.model.model_copy(update={"device": run.ranks.device(run.recipe.model.device)})
    return encoding.make(run, Parts(run, open_model(recipe)))
