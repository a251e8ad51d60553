"""The stage `activations/HOOK`: what decides its bytes. Made by `monosem.capture`, read by the stages that follow."""

from monosem import assets
from monosem.corpus import sentences
from monosem.run import Run, Stage


def open_stage(run: Run, hook_point: str | None = None) -> Stage:
    """A hook point's folder; writes nothing. Each is a stage of its own; its rows depend on those it is paired with.

    Args:
        hook_point: None: the first of the recipe's that is not complete, else the one the SAE is trained on.

    Raises:
        RunError: its files were made with another recipe.
    """
    recipe = run.recipe
    if hook_point is None:
        stages = [open_stage(run, name) for name in recipe.capture.hook_points]
        unfinished = [stage for stage in stages if not stage.complete]
        return unfinished[0] if unfinished else open_stage(run, recipe.hook_point)
    part = recipe.capture.fingerprint_part()
    del part["hook_points"], part["paired"]
    if recipe.capture.paired and len(set(recipe.capture.hook_points)) > 1:
        part["paired_with"] = sorted(set(recipe.capture.hook_points))
    part |= {"hook_point": hook_point, "model_dtype": recipe.model.dtype, "max_tokens": recipe.corpus.max_tokens}
    inputs = {
        "sentences": sentences.open_stage(run).fingerprint,
        "model": assets.fingerprint(recipe.model.source),
    }
    return run.stage(run.folder("activations", hook_point), part, inputs)
