"""The training stage: shuffled activations in, an SAE out.

Flow: plan the steps -> start or resume -> batch, step, track, log, validate, checkpoint -> `sae/final/`. A signal ends
the run with a checkpoint; the same command goes on, to the same bytes. Knows nothing of language models.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch

from monosem import progress
from monosem.errors import TrainingError
from monosem.recipe import Recipe
from monosem.run import Run, Stage
from monosem.sae import files
from monosem.sae.autoencoder import LAYER_EPS, Autoencoder, SaeConfig
from monosem.sae.initialise import dataset_statistics
from monosem.sae.losses import AuxK
from monosem.store import prepare
from monosem.store.loader import Batch, Cursor, Loader, validation
from monosem.store.stats import Statistics
from monosem.train import checkpoint
from monosem.train.optim import OptimSettings
from monosem.train.step import StepResult, StepSettings, TrainStep
from monosem.train.tracking import Tracker
from monosem.train.validation import validate


@dataclass(frozen=True)
class Plan:
    """The numbers that follow from the recipe and the size of the training set."""

    total_steps: int
    log_every: int
    validate_every: int

    @classmethod
    def of(cls, recipe: Recipe, rows: int) -> "Plan":
        """Raises TrainingError: the training set is smaller than one batch."""
        train = recipe.train
        if rows < train.batch:
            raise TrainingError(
                f"the training set has {rows:,} activations, less than one batch of train.batch = {train.batch:,}; "
                "lower it, or capture more sentences"
            )
        an_epoch = rows / train.batch
        return cls(
            total_steps=max(1, int(train.epochs * an_epoch)),
            log_every=max(1, int(an_epoch / train.log_points)),
            validate_every=max(1, int(an_epoch / train.validations)),
        )


def open_stage(run: Run) -> Stage:
    """The stage folder `sae/`."""
    recipe = run.recipe
    part = {
        "sae": recipe.sae.fingerprint_part(),
        "train": recipe.train.fingerprint_part(),
        "seed": seed_of(recipe),
    }
    return run.stage(run.folder("sae"), part, [prepare.open_stage(run, recipe.hook_point)])


def make(run: Run) -> Stage:
    """Train the SAE, or go on from the last checkpoint.

    Raises:
        RunError: the batches have not been made.
        TrainingError: the loss is not finite, or there is too little data.
    """
    stage = open_stage(run)
    if stage.complete:
        return stage
    prepare.open_stage(run, run.recipe.hook_point).require()
    stage.begin()
    Training(run, stage).train()
    return stage


class Training:
    """One run of training and everything it holds."""

    def __init__(self, run: Run, stage: Stage) -> None:
        self.run, self.stage, self.recipe = run, stage, run.recipe
        train = self.recipe.train
        batches = run.folder("batches", self.recipe.hook_point)
        self.device = _device(train.device)
        saved = checkpoint.latest(stage.path)
        self.state = saved.progress if saved else checkpoint.Progress()
        cursor = Cursor(self.state.epoch, self.state.shard, self.state.row)
        self.loader = Loader(batches, train.batch, seed_of(self.recipe), train.workers, cursor)
        self.held_out = lambda: validation(batches, train.batch, train.validation_tokens)
        self.plan = Plan.of(self.recipe, self.loader.rows)
        self.sae = saved.sae.to(self.device) if saved else self._new_sae(Statistics.load(batches))
        self.step = TrainStep(self.sae, _settings(self.recipe, self.plan, self.sae.config.d))
        self.tracker = Tracker(run.path / "tracking", self.sae.config.n, self.device)
        if saved:
            self.step.load_state_dict(saved.step)
            self.tracker.load_state_dict(saved.tracker)
        self.saved_at = time.monotonic()

    def _new_sae(self, statistics: Statistics) -> Autoencoder:
        """An untrained SAE; `b_pre` starts at the mean of the activations, in the SAE's own space."""
        recipe = self.recipe
        config = SaeConfig(
            d=len(statistics.mean),
            n=recipe.sae.n,
            k=recipe.sae.k,
            sparsity=recipe.sae.sparsity,
            normalisation=recipe.sae.normalisation,
            model=recipe.model.source,
            hook_point=recipe.hook_point,
            norm_threshold=prepare.open_stage(self.run, recipe.hook_point).manifest.counts["norm_threshold"],
        )
        generator = torch.Generator().manual_seed(seed_of(recipe))
        mean, variance = torch.from_numpy(statistics.mean), torch.from_numpy(statistics.variance)
        if config.normalisation == "dataset":
            known = dataset_statistics(mean, variance)
            return Autoencoder(config, generator, known, encoder_norm=recipe.sae.encoder_norm).to(self.device)
        if config.normalisation == "layer":
            mean = (mean - mean.mean()) / (mean.std() + LAYER_EPS)
        return Autoencoder(config, generator, b_pre=mean.float(), encoder_norm=recipe.sae.encoder_norm).to(self.device)

    def train(self) -> None:
        """All steps that are left, then the final SAE."""
        verb = f"going on after step {self.state.step:,}" if self.state.step else "training"
        progress.note(f"  {verb}: {self.plan.total_steps:,} steps over {self.loader.rows:,} activations")
        sinks = self._sinks()
        total = self.plan.total_steps
        try:
            with _stop_signals() as stopped, progress.progress("train", total, "steps", self.state.step) as advance:
                while self.state.step < total and not self._out_of_patience():
                    self._one(next(self.loader), sinks)
                    advance(1)
                    self._save_if_due(stopped)
        finally:
            self.loader.close()
            sinks.close()
        self._finish()

    def _one(self, batch: Batch, sinks: progress.Sinks) -> None:
        """One step and what is due after it."""
        try:
            result = self.step.step(batch.x.to(self.device))
        except TrainingError as error:
            place = f"epoch {self.state.epoch}, shard {self.state.shard}, row {self.state.row}"
            raise TrainingError(f"{error} (batch at {place}; the last good checkpoint is kept)") from None
        self.tracker.observe(self.state.step, result.fired, result.fired_values, len(batch.x))
        self.state.step += 1
        self.state.epoch, self.state.shard, self.state.row = batch.cursor
        last = self.state.step == self.plan.total_steps
        values = self._figures(result) if last or self.state.step % self.plan.log_every == 0 else {}
        if last or self.state.step % self.plan.validate_every == 0:
            values = values or self._figures(result)
            values |= self._validate()
            self.tracker.close_interval()
        if values:
            sinks.log(self.state.step, values)

    def _figures(self, result: StepResult) -> dict[str, float]:
        figures = {
            "loss": result.loss,
            "main": result.main,
            "aux": result.aux,
            "mse": result.mse,
            "l0": result.l0,
            "dead": result.n_dead,
            "k": result.k,
            "lr": result.lr,
            "epoch": self.state.step * self.recipe.train.batch / self.loader.rows,
        }
        return figures if result.grad_norm is None else {**figures, "grad_norm": result.grad_norm}

    def _validate(self) -> dict[str, float]:
        measured = validate(self.sae, self.held_out())
        if self.state.best_fvu is None or measured.fvu < self.state.best_fvu:
            self.state.best_fvu, self.state.stale = measured.fvu, 0
        else:
            self.state.stale += 1
        return {"validation_fvu": measured.fvu, "validation_l0": measured.l0}

    def _out_of_patience(self) -> bool:
        patience = self.recipe.train.patience
        return patience is not None and self.state.stale >= patience

    def _save_if_due(self, stopped: list[int]) -> None:
        """Write a checkpoint when its time has come, or when a signal asks to stop."""
        if stopped or time.monotonic() - self.saved_at > 60 * self.recipe.train.checkpoint_minutes:
            checkpoint.save(self.stage.path, self.sae, self.state, self.step.state_dict(), self.tracker.state_dict())
            self.saved_at = time.monotonic()
        if stopped:
            progress.note(f"  stopped by {signal.Signals(stopped[0]).name}; checkpoint at step {self.state.step:,}")
            raise KeyboardInterrupt

    def _finish(self) -> None:
        """Write the final SAE and drop the checkpoints it makes needless."""
        seen = self.state.step * self.recipe.train.batch
        metadata = {"steps": self.state.step, "activations": seen, "seed": seed_of(self.recipe)}
        files.save(self.sae, self.stage.path / "final", metadata)
        for name in (files.WEIGHTS, files.CONFIG):
            self.stage.add_shard(f"final/{name}", rows=self.sae.config.n)
        self.stage.finish(**metadata, best_validation_fvu=self.state.best_fvu)
        checkpoint.remove(self.stage.path)

    def _sinks(self) -> progress.Sinks:
        sinks: list[progress.Sink] = [
            progress.JsonlSink(self.run.path / "metrics.jsonl", self.state.step),
            progress.ConsoleSink(),
        ]
        if (mode := self.recipe.train.wandb) != "off":
            config = self.recipe.model_dump(mode="json")
            sinks.append(progress.WandbSink(self.run.path, self.recipe.name, config, mode))
        return progress.Sinks(sinks)


def seed_of(recipe: Recipe) -> int:
    """The seed of initialisation and batch order."""
    return recipe.seed if recipe.train.seed is None else recipe.train.seed


def _settings(recipe: Recipe, plan: Plan, d: int) -> StepSettings:
    train = recipe.train
    steps = plan.total_steps
    optim = OptimSettings(
        lr=train.lr,
        lr_final=train.lr_final,
        schedule=train.schedule,
        warmup_steps=round(train.warmup_fraction * steps),
        decay_steps=round(train.decay_fraction * steps),
        total_steps=steps,
        betas=train.betas,
        eps=train.eps,
        weight_decay=train.weight_decay,
        clip=train.clip,
    )
    aux = AuxK(k_aux=train.k_aux, coefficient=train.aux_coefficient, gate=train.auxk_gate)
    annealed = round(train.k_anneal_fraction * steps)
    return StepSettings(optim, aux, train.dead_tokens, k_start=min(d, recipe.sae.n), k_steps=annealed)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
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
