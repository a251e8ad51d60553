"""The stage `batches`: captured activations in random order, split into train and validation, with their statistics.

Which sentence validates is a hash of its number. Knows nothing of batches and epochs.
"""

from collections.abc import Sequence

from monosem.errors import StoreError
from monosem.run import Run, Stage, read_manifest
from monosem.store import activations, remote
from monosem.store.preparation import Plan, Preparation
from monosem.store.shards import CONSUMED, consumed


def open_stage(run: Run, hook_point: str | None = None) -> Stage:
    """A hook point's folder; writes nothing.

    Args:
        hook_point: None: the first of the recipe's that is not complete, else the one the SAE is trained on.

    Raises:
        RunError: its files were made with another recipe.
    """
    if hook_point is None:
        stages = [open_stage(run, name) for name in run.recipe.capture.hook_points]
        unfinished = [stage for stage in stages if not stage.complete]
        return unfinished[0] if unfinished else open_stage(run, run.recipe.hook_point)
    part = {**run.recipe.prepare.fingerprint_part(), "seed": run.recipe.seed}
    if not run.recipe.prepare.geometric_median:
        del part["geometric_median"]  # so that what was made before there was one stays valid
    return run.stage(run.folder("batches", hook_point), part, [activations.open_stage(run, hook_point)])


def make(run: Run) -> Stage:
    """Shuffle and split the activations of every hook point, or take what was made of them elsewhere.

    Raises:
        RunError: they have not been captured.
        StoreError: a shard is damaged, the disk is too small, or there are too few sentences to split.
    """
    recipe, capture = run.recipe.prepare, run.recipe.capture
    for hook_point in capture.hook_points:
        stage = open_stage(run, hook_point)
        if stage.complete:
            continue
        if recipe.source is not None:
            place = f"{recipe.source}/{hook_point}"
            run.ranks.once(place, lambda stage=stage, place=place: remote.adopt(stage, place) and None)
            continue
        source = activations.open_stage(run, hook_point).require()
        # rows that pair stay in the same places only if they are sorted into as many buckets
        beside = capture.hook_points if capture.paired else (hook_point,)
        sources = [activations.open_stage(run, name).require().manifest for name in beside]
        plan = max(Plan.of(manifest, recipe) for manifest in sources)
        Preparation(source, stage, recipe, run.recipe.seed, plan, run.ranks).make()
    return open_stage(run)


def check(run: Run, verbs: Sequence[str], redo: str | None) -> None:
    """Refuse what `prepare.consume` would make impossible, before anything is done.

    Raises:
        StoreError: codes are asked for, which are made of the activations; or batches would go that are the only copy.
    """
    codes = read_manifest(run.folder("codes"))
    if run.recipe.prepare.consume and {"codes", "examples"} & set(verbs) and (codes is None or not codes.complete):
        raise StoreError(
            "prepare.consume frees the activations that the stage codes reads; leave it out, or give the verbs "
            "sentences, capture, prepare and train by themselves"
        )
    for hook_point in run.recipe.capture.hook_points if redo == "prepare" else ():
        folder = run.folder("activations", hook_point)
        captured = read_manifest(folder)
        if captured is not None and CONSUMED in captured.counts:
            raise consumed(folder, captured)
