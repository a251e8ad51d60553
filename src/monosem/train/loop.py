"""The training stage: shuffled activations in, an SAE out.

Flow: start or resume -> batch, step, track, log, validate, checkpoint -> `sae/final/`. A signal ends the run with a
checkpoint; the same command goes on, to the same bytes. `drive` carries any number of SAEs over one pass of the store.
Knows nothing of language models.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from monosem import progress
from monosem.errors import TrainingError
from monosem.run import Run, Stage
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.exchange import ALONE, Exchange
from monosem.store import prepare
from monosem.store.loader import Batch, Cursor, Loader, training, validation
from monosem.store.shards import open_shards
from monosem.store.stats import Statistics
from monosem.train.lockstep import Feed, Gathered, Wish
from monosem.train.parallel import Together, exchange_of, mesh_of
from monosem.train.settings import device_of, new_sae, seed_of
from monosem.train.trainer import Data, Trainer

MEDIAN_ROWS = 65_536  # activations that a geometric median is taken of


def open_stage(run: Run) -> Stage:
    """The stage folder `sae/`."""
    recipe = run.recipe
    part = {
        "sae": recipe.sae.fingerprint_part(),
        "train": recipe.train.fingerprint_part(),
        "seed": seed_of(recipe),
    }
    return run.stage(run.folder("sae"), part, [prepare.open_stage(run, recipe.hook_point)])


def check(run: Run, verbs: Sequence[str], _redo: str | None) -> None:
    """Whether the ranks that were started can train together.

    Raises:
        RecipeError: as `parallel.mesh_of`.
    """
    if "train" in verbs:
        mesh_of(run.recipe, run.ranks.world)


def make(run: Run) -> Stage:
    """Train the SAE, or go on from the last checkpoint; all ranks of the run call this.

    Raises:
        RunError: the batches have not been made.
        TrainingError: the loss is not finite, or there is too little data.
    """
    stage = open_stage(run)
    if stage.complete:
        return stage
    prepare.open_stage(run, run.recipe.hook_point).require()
    stage.begin(run.ranks)
    exchange = exchange_of(run.recipe, run.ranks)
    trainer = open_trainer(run, stage, exchange=exchange)
    try:
        drive([trainer], open_loader(run, trainer.cursor, exchange))
        trainer.finish()
    finally:
        trainer.close()
    return stage


def open_loader(run: Run, cursor: Cursor, exchange: Exchange = ALONE) -> Feed:
    """The batches of a run's training set from `cursor` on; of several data ranks, this one's part of them."""
    train = run.recipe.train
    folder = run.folder("batches", run.recipe.hook_point)
    seed = seed_of(run.recipe) if train.order_seed is None else train.order_seed
    if not isinstance(exchange, Together):
        return Loader(folder, train.batch, seed, train.workers, cursor)
    own = Loader(folder, train.batch, seed, train.workers, cursor, exchange.reads(train.batch))
    return Gathered(own, exchange, device_of(run.recipe, run.ranks))


def open_trainer(run: Run, stage: Stage, *, console: bool = True, exchange: Exchange = ALONE) -> Trainer:
    """A trainer for the run's SAE, at its last checkpoint if there is one.

    Args:
        console: whether its figures are printed as they come.
        exchange: with the trainers of the other ranks.

    Raises:
        TrainingError: the checkpoint is damaged, or there is too little data.
    """
    recipe, train = run.recipe, run.recipe.train
    folder = run.folder("batches", recipe.hook_point)
    batches = prepare.open_stage(run, recipe.hook_point).manifest

    def ahead(cursor: Cursor) -> Iterator[Tensor]:
        with contextlib.closing(open_loader(run, cursor, exchange)) as loader:
            for batch in loader:
                yield batch.x

    def fresh() -> Autoencoder:
        sample = _sample(folder) if recipe.sae.b_pre == "geometric_median" else torch.empty(0, 0)
        return new_sae(recipe, Statistics.load(folder), sample, batches.counts["norm_threshold"], exchange)

    data = Data(
        rows=rows_in(run),
        held_out=lambda: validation(folder, train.batch, train.validation_tokens),
        ahead=ahead,
    )
    return Trainer(run, stage, data, fresh, console=console, exchange=exchange)


def rows_in(run: Run) -> int:
    """Activations of a run's training set."""
    return open_shards(run.folder("batches", run.recipe.hook_point), "train-").rows


Dropped = Callable[[Trainer, TrainingError], None]


def drive(trainers: Sequence[Trainer], loader: Feed, dropped: Dropped | None = None) -> None:
    """Make all steps that are left of every trainer, each batch being read and normalised once.

    Args:
        trainers: of one training set and batch size.
        loader: at the place of the trainer that is least far.
        dropped: is told of a trainer whose loss is not finite; the others go on. None: it ends everything.

    Raises:
        KeyboardInterrupt: a signal asked to stop; every trainer has a checkpoint.
        TrainingError: a loss is not finite.
    """
    going = [trainer for trainer in trainers if not trainer.done]
    total, begun = max(t.plan.total_steps for t in trainers), min(t.state.step for t in trainers)
    verb = f"going on after step {begun:,}" if begun else "training"
    progress.note(f"  {verb}: {total:,} steps over {loader.rows:,} activations")
    bar, stop = progress.progress("train", total, "steps", begun), Wish(trainers[0].exchange)
    with contextlib.closing(loader), contextlib.closing(stop), stop_signals() as stopped, bar as advance:
        for step in range(begun, total):
            if not going:
                break
            batch = next(loader)
            standardised: dict[str, Tensor] = {}
            for trainer in going:
                if trainer.state.step == step:  # one that was ahead when it was stopped waits for the others
                    how = trainer.sae.config.normalisation
                    if how not in standardised:
                        standardised[how] = trainer.sae.standardise(batch.x.to(trainer.device)).y
                    _train(trainer, batch, standardised[how], dropped)
            going = [trainer for trainer in going if not trainer.done]
            advance(1)
            if signalled := stop.heard(stopped[0] if stopped else 0):
                for trainer in going:
                    trainer.save()
                name = signal.Signals(signalled).name
                progress.note(f"  stopped by {name}; checkpoint at step {step + 1:,}")
                raise KeyboardInterrupt


def _train(trainer: Trainer, batch: Batch, y: Tensor, dropped: Dropped | None) -> None:
    try:
        trainer.train(batch, y)
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


def _sample(folder: Path) -> Tensor:
    """[S, d] float32 activations of the training set, which is shuffled."""
    return torch.cat([part.float() for part in training(folder, 8192, MEDIAN_ROWS)])
