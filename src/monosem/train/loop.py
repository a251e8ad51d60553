"""The training stage: shuffled activations in, an SAE out.

Flow: start or resume -> batch, step, track, log, validate, checkpoint -> `sae/final/`. A signal ends the run with a
checkpoint; the same command goes on, to the same bytes. `drive` carries any number of SAEs over one pass of a source.
Knows nothing of language models.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from monosem import assets, progress
from monosem.corpus import sentences
from monosem.errors import TrainingError
from monosem.recipe import Recipe
from monosem.run import Run, Stage
from monosem.store import prepare
from monosem.store.loader import Batch
from monosem.train.lockstep import Wish
from monosem.train.parallel import exchange_of
from monosem.train.settings import seed_of
from monosem.train.source import Source
from monosem.train.stored import Stored
from monosem.train.trainer import Standardised, Trainer


def open_stage(run: Run) -> Stage:
    """The stage folder `sae/`."""
    recipe = run.recipe
    part = {
        "sae": recipe.sae.fingerprint_part(),
        "train": recipe.train.fingerprint_part(),
        "seed": seed_of(recipe),
    }
    if recipe.train.source == "live":
        part["live"] = _read_live(recipe)
        inputs = {
            "sentences": sentences.open_stage(run).fingerprint,
            "model": assets.fingerprint(recipe.model.source),
        }
        return run.stage(run.folder("sae"), part, inputs)
    return run.stage(run.folder("sae"), part, _batches(run))


def make(run: Run, source: Source) -> Stage:
    """Train the SAE, or go on from the last checkpoint; all ranks of the run call this.

    Raises:
        TrainingError: the loss is not finite, or there is too little data.
    """
    stage = open_stage(run)
    if stage.complete:
        return stage
    stage.begin(run.ranks)
    trainer = Trainer(run, stage, source, exchange=exchange_of(run.recipe, run.ranks))
    try:
        drive([trainer], source)
        trainer.finish()
    finally:
        trainer.close()
    return stage


def stored(run: Run) -> Source:
    """The stored batches of a run.

    Raises:
        RunError: they have not been made.
        StoreError: they are damaged, or those of a transcoder's two hook points do not pair.
    """
    for stage in _batches(run):
        stage.require()
    return Stored(run)


def _read_live(recipe: Recipe) -> dict[str, Any]:
    """What decides the activations that a language model gives as training goes."""
    capture = recipe.capture
    return {
        "hook_points": recipe.trained_on,
        "dtype": capture.dtype,
        "drop_first": capture.drop_first,
        "max_norm_ratio": capture.max_norm_ratio,
        "batch_tokens": capture.batch_tokens,
        "model_dtype": recipe.model.dtype,
        "max_tokens": recipe.corpus.max_tokens,
        "validation_fraction": recipe.prepare.validation_fraction,
        "split_seed": recipe.seed,
    }


def _batches(run: Run) -> list[Stage]:
    return [prepare.open_stage(run, name) for name in run.recipe.trained_on]


Dropped = Callable[[Trainer, TrainingError], None]


def drive(trainers: Sequence[Trainer], source: Source, dropped: Dropped | None = None) -> None:
    """Make all steps that are left of every trainer, each batch being read and normalised once.

    Args:
        trainers: of one training set and batch size.
        source: of all of them.
        dropped: is told of a trainer whose loss is not finite; the others go on. None: it ends everything.

    Raises:
        KeyboardInterrupt: a signal asked to stop; every trainer has a checkpoint.
        TrainingError: a loss is not finite.
    """
    going = [trainer for trainer in trainers if not trainer.done]
    furthest_back = min(trainers, key=lambda trainer: trainer.state.step)
    total, begun = max(t.plan.total_steps for t in trainers), furthest_back.state.step
    verb = f"going on after step {begun:,}" if begun else "training"
    progress.note(f"  {verb}: {total:,} steps over {source.rows:,} activations")
    bar, stop = progress.progress("train", total, "steps", begun), Wish(trainers[0].exchange)
    with (
        contextlib.closing(furthest_back.feed()) as feed,
        contextlib.closing(stop),
        stop_signals() as stopped,
        bar as advance,
    ):
        for step in range(begun, total):
            if not going:
                break
            batch = next(feed)
            standardised: dict[str, Standardised] = {}
            for trainer in going:
                if trainer.state.step == step:  # one that was ahead when it was stopped waits for the others
                    how = trainer.sae.config.normalisation
                    if how not in standardised:
                        standardised[how] = trainer.standardise(batch)
                    _train(trainer, batch, standardised[how], dropped)
            going = [trainer for trainer in going if not trainer.done]
            advance(1)
            if signalled := stop.heard(stopped[0] if stopped else 0):
                for trainer in going:
                    trainer.save()
                name = signal.Signals(signalled).name
                progress.note(f"  stopped by {name}; checkpoint at step {step + 1:,}")
                raise KeyboardInterrupt


def _train(trainer: Trainer, batch: Batch, standardised: Standardised, dropped: Dropped | None) -> None:
    try:
        trainer.train(batch, standardised)
    except TrainingError as error:
        if dropped is None:
            raise
        trainer.fail()
        dropped(trainer, error)
    else:
        trainer.save_if_due()


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them, so that the step can end and be saved."""
    caught: list[int] = []

    def catch(number: int, _frame: FrameType | None) -> None:
        caught.append(number)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
