"""One SAE in training: its steps, its figures, its checkpoints, its final files. Who reads the data is not its affair.

The same batches in the same order give the same bytes, whether training was interrupted or not, and whether other SAEs
were trained on them beside it. Of several processes every one has a trainer, with some of the SAE's latents; the
leading one writes what exists once.
"""

import contextlib
import time
from typing import NamedTuple

import torch
from torch import Tensor

from monosem import progress
from monosem.errors import TrainingError
from monosem.run import Run, Stage
from monosem.sae import files
from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.sae.exchange import ALONE, Exchange
from monosem.store.loader import Batch, Cursor
from monosem.store.pairs import Sample
from monosem.train import checkpoint, tracking
from monosem.train.lockstep import Gathered, Wish
from monosem.train.parallel import Together
from monosem.train.resample import resample
from monosem.train.settings import Plan, device_of, new_sae, seed_of, step_settings
from monosem.train.source import Feed, Source
from monosem.train.step import StepResult, TrainStep
from monosem.train.tracking import Tracker
from monosem.train.validation import validate

MEDIAN_ROWS = 65_536  # activations that a geometric median is taken of


class Standardised(NamedTuple):
    """A batch in the space of an SAE, before its biases."""

    y: Tensor
    """[B, d]"""
    target: Tensor | None
    """[B, d_out]; only of transcoders."""


class Trainer:
    """Trains the SAE of one run.

    Args:
        source: of its activations.
        console: whether figures are printed as they come.
        exchange: with the trainers of the other processes.

    Raises:
        TrainingError: the checkpoint is damaged, or there is too little data.
        RunError: the processes see other checkpoints.
    """

    def __init__(
        self, run: Run, stage: Stage, source: Source, *, console: bool = True, exchange: Exchange = ALONE
    ) -> None:
        self.run, self.stage, self.recipe, self.source, self.exchange = run, stage, run.recipe, source, exchange
        self.device = device_of(self.recipe, run.ranks)
        self.plan = Plan.of(self.recipe, source.rows)
        run.ranks.agree("checkpoints", {"newest": checkpoint.newest(stage.path)})
        saved = checkpoint.latest(stage.path, exchange)
        if saved:
            self._check(saved.sae.config)
        self.state = saved.progress if saved else checkpoint.Progress()
        self.sae = (saved.sae if saved else self._untrained()).to(self.device)
        self.step = TrainStep(self.sae, step_settings(self.recipe, self.plan, self.sae.config.d))
        self.tracker = Tracker(run.path / "tracking", len(self.sae.b_enc), self.device, exchange)
        if saved:
            self.step.load_state_dict(saved.step)
            self.tracker.load_state_dict(saved.tracker)
        self.failed = False
        self._held_out_variance: float | None = None
        self._saved_at, self._due = time.monotonic(), Wish(exchange)
        self._saver = None
        if isinstance(exchange, Together):
            from monosem.train.sharded import Saver  # takes seconds to load

            self._saver = Saver(exchange)
        self._sinks = self._open_sinks(console)

    @property
    def cursor(self) -> Cursor:
        """The place in the data after the last batch."""
        return Cursor(self.state.epoch, self.state.shard, self.state.row)

    @property
    def done(self) -> bool:
        """Whether all steps are made, patience is out, or training has failed."""
        patience = self.recipe.train.patience
        return (
            self.failed
            or self.state.step >= self.plan.total_steps
            or (patience is not None and self.state.stale >= patience)
        )

    def feed(self) -> Feed:
        """The batches from its place on; of several data ranks, this one's part of them."""
        if not isinstance(self.exchange, Together):
            return self.source.feed(self.cursor)
        own = self.source.feed(self.cursor, self.exchange.reads(self.recipe.train.batch))
        return Gathered(own, self.exchange, self.device)

    def standardise(self, batch: Batch) -> Standardised:
        """The same for all SAEs of one normalisation and source, on the trainer's device."""
        target = self.sae.standardise_target(batch.target.to(self.device)) if self.sae.config.transcodes else None
        return Standardised(self.sae.standardise(batch.x.to(self.device)).y, target)

    def train(self, batch: Batch, standardised: Standardised) -> None:
        """One step, and what is due after it.

        Args:
            batch: the next one.
            standardised: `standardise(batch)`; it is left as it is.

        Raises:
            TrainingError: the loss is not finite; the last good checkpoint is kept.
        """
        try:
            result = self.step.step_normalised(standardised.y - self.sae.b_pre.detach(), standardised.target)
        except TrainingError as error:
            place = f"epoch {self.state.epoch}, shard {self.state.shard}, row {self.state.row}"
            raise TrainingError(f"{error} (batch at {place}; the last good checkpoint is kept)") from None
        self.tracker.observe(self.state.step, result.fired, result.fired_values, self.recipe.train.batch)
        self.state.step += 1
        self.state.epoch, self.state.shard, self.state.row = batch.cursor
        last = self.state.step == self.plan.total_steps
        values = self._figures(result) if last or self.state.step % self.plan.log_every == 0 else {}
        if self.state.step in self.plan.resample_at:
            values = values or self._figures(result)
            values["resampled"] = self._resample()
        if last or self.state.step % self.plan.validate_every == 0:
            values = values or self._figures(result)
            values |= self._validate()
            self.tracker.close_interval()
        if values:
            self._sinks.log(self.state.step, values)

    def save(self) -> None:
        """Write a checkpoint; several processes go on meanwhile, and `close` waits for it."""
        what = (self.sae, self.state, self.step.state_dict(), self.tracker.state_dict())
        keep = self.recipe.train.keep_checkpoints
        if self._saver is None:
            checkpoint.save(self.stage.path, *what, keep)
        else:
            checkpoint.save_together(self._saver, self.stage.path, *what, keep)
        self._saved_at = time.monotonic()

    def save_if_due(self) -> None:
        """Write a checkpoint when its time has come."""
        if self._due.heard(time.monotonic() - self._saved_at > 60 * self.recipe.train.checkpoint_minutes):
            self.save()

    def finish(self) -> None:
        """Write the final SAE and drop the checkpoints it makes needless."""
        final = self.step.averaged()
        if self.recipe.train.decoder_norm == "free":
            final.fold_norms()
        seen = self.state.step * self.recipe.train.batch
        metadata = {"steps": self.state.step, "activations": seen, "seed": seed_of(self.recipe)}
        self._settle()
        whole = self.exchange.whole_sae(final) if isinstance(self.exchange, Together) else final
        if whole is not None:
            files.save(whole, self.stage.path / "final", metadata)
            for name in (files.WEIGHTS, files.CONFIG):
                self.stage.add_shard(f"final/{name}", rows=final.config.n)
        self.stage.finish(**metadata, best_validation_fvu=self.state.best_fvu)
        if self.exchange.lead:
            checkpoint.remove(self.stage.path)
        self._sinks.pictures(self.state.step, self._pictures)

    def fail(self) -> None:
        """Be done without an SAE."""
        self.failed = True

    def close(self) -> None:
        """Close the metrics, once what is being written is there."""
        try:
            self._settle()
        finally:
            self._sinks.close()

    def _settle(self) -> None:
        """Take up what is on its way to or from other processes."""
        if self._saver is not None:
            self._due.close()
            self._saver.wait()

    def _check(self, found: SaeConfig) -> None:
        """Whether a checkpoint is of the SAE that the recipe describes; its width is met by the first batch."""
        wanted = self.recipe.sae
        for key in ("n", "k", "sparsity", "prefixes", "normalisation", "skip"):
            if getattr(found, key) != getattr(wanted, key):
                raise TrainingError(
                    f"{self.stage.path}: its checkpoint is of an SAE with {key} = {getattr(found, key)!r}, the recipe "
                    f"says sae.{key} = {getattr(wanted, key)!r}; delete the checkpoint to begin anew"
                )

    def _untrained(self) -> Autoencoder:
        known, target = self.source.known(), self.source.target()
        sample = Sample(torch.empty(0, 0), torch.empty(0, 0))
        if self.recipe.sae.b_pre == "geometric_median" and any(one and one.median is None for one in (known, target)):
            sample = self.source.sample(MEDIAN_ROWS)
        return new_sae(self.recipe, known, sample, target, self.exchange)

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
            "epoch": self.state.step * self.recipe.train.batch / self.source.rows,
        }
        if self.step.settings.objective.penalty is not None:
            figures["penalty"] = result.penalty
        if result.grad_norm is not None:
            figures["grad_norm"] = result.grad_norm
        return figures

    def _validate(self) -> dict[str, float]:
        measured = validate(self.step.averaged(), self.source.held_out(), self._held_out_variance)
        self._held_out_variance = measured.variance
        if self.state.best_fvu is None or measured.fvu < self.state.best_fvu:
            self.state.best_fvu, self.state.stale = measured.fvu, 0
        else:
            self.state.stale += 1
        return {"validation_fvu": measured.fvu, "validation_l0": measured.l0}

    def _resample(self) -> int:
        # a generator of its own for every time, so that a resumed run draws the same
        generator = torch.Generator().manual_seed(seed_of(self.recipe) * 1_000_003 + self.state.step)
        batches = max(1, self.recipe.train.resample_tokens // self.recipe.train.batch)
        with contextlib.closing(self.feed()) as feed:
            ahead = (Sample(batch.x, batch.target) for _, batch in zip(range(batches), feed, strict=False))
            return resample(self.step, ahead, generator)

    def _pictures(self) -> dict[str, bytes]:
        from monosem.train.tracking_charts import tracking_pictures  # matplotlib takes a second to load

        return tracking_pictures(tracking.read(self.run.path / "tracking"), self.recipe.train.dead_window)

    def _open_sinks(self, console: bool) -> progress.Sinks:
        if not self.exchange.lead:
            return progress.Sinks([])
        sinks: list[progress.Sink] = [progress.JsonlSink(self.run.path / "metrics.jsonl", self.state.step)]
        if console:
            sinks.append(progress.ConsoleSink())
        if (mode := self.recipe.train.wandb) != "off":
            config = self.recipe.model_dump(mode="json")
            sinks.append(progress.WandbSink(self.run.path, self.recipe.name, config, mode))
        return progress.Sinks(sinks)
