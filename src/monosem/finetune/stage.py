"""The stage `finetune`: the trained SAE in, one that the language model's predictions suffer less from out.

Flow: start or resume -> training sentences in random order -> step, log, checkpoint -> `finetune/final/`. A signal ends
it with a checkpoint; the same command goes on, to the same bytes. Without `finetune.tokens` the stage is left out, and
the SAE of the run is the trained one.
"""

import signal
import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from monosem import progress
from monosem.corpus import sentences
from monosem.errors import TrainingError
from monosem.finetune.reader import Batch, Place, Reader
from monosem.finetune.step import FinetuneResult, FinetuneStep
from monosem.lm.protocol import LanguageModel
from monosem.lm.source import open_model
from monosem.recipe import Recipe
from monosem.run import Run, Stage
from monosem.sae import files
from monosem.store import split
from monosem.train import checkpoint, loop
from monosem.train.optim import OptimSettings
from monosem.train.settings import Plan, device_of, step_settings
from monosem.train.step import StepSettings, TrainStep

METRICS = "metrics.jsonl"
LOG_POINTS = 1000
COMPARED = 10
"""The first and the last of so many parts of the steps are what the stage's counts compare."""


def open_stage(run: Run) -> Stage:
    """The stage's folder; writes nothing.

    Raises:
        RunError: its files were made with another recipe.
    """
    part = {**run.recipe.finetune.fingerprint_part(), "seed": seed_of(run.recipe)}
    return run.stage(run.folder("finetune"), part, [sentences.open_stage(run), loop.open_stage(run)])


def make(run: Run) -> Stage:
    """Fine-tune the SAE, or go on from the last checkpoint.

    Raises:
        RunError: the sentences or the SAE have not been made.
        ModelError: there is no gradient from the hook point.
        StoreError: no sentence has two tokens.
        TrainingError: the loss is not finite, or a checkpoint is damaged.
    """
    stage = open_stage(run)
    if stage.complete:
        return stage
    for upstream in (sentences.open_stage(run), loop.open_stage(run)):
        upstream.require()
    stage.begin()
    model = open_model(run.recipe.model)
    _Finetuning(run, stage, model).make()
    return stage


def seed_of(recipe: Recipe) -> int:
    """The seed of the order of the sentences."""
    return recipe.seed if recipe.finetune.seed is None else recipe.finetune.seed


def total_steps(recipe: Recipe) -> int:
    """Steps in which about `finetune.tokens` are read."""
    return max(1, recipe.finetune.tokens // recipe.finetune.batch_tokens)


def settings(recipe: Recipe, d: int) -> StepSettings:
    """Those of training, with a course of the learning rate of its own; what only helps at a start is left out.

    With the KL the loss is 1 + alpha times as large. What is held against the squared error grows by as much, so that
    penalties keep the strength that training found for them.
    """
    own, steps = recipe.finetune, total_steps(recipe)
    trained = step_settings(recipe, Plan(steps, 1, 1, frozenset()), d)
    grown = 1 + own.alpha
    warmup = round(own.warmup_fraction * steps)
    optim = OptimSettings(
        lr=own.lr,
        lr_final=0.0,
        schedule="linear",
        warmup_steps=warmup,
        decay_steps=steps - warmup,
        total_steps=steps,
        betas=trained.optim.betas,
        eps=trained.optim.eps,
        weight_decay=trained.optim.weight_decay,
        threshold_rate=trained.optim.threshold_rate,
        clip=None if trained.optim.clip is None else trained.optim.clip * grown,
    )
    aux, penalty = trained.objective.aux, trained.objective.penalty
    if penalty is not None:
        coefficient, silent = penalty.coefficient * grown, penalty.silent * grown
        penalty = replace(penalty, coefficient=coefficient, silent=silent, warmup_steps=0)
    objective = replace(
        trained.objective,
        aux=replace(aux, coefficient=aux.coefficient * grown),
        penalty=penalty,
        free_norms=False,  # a trained SAE has its norms folded in
    )
    return replace(trained, optim=optim, objective=objective, k_steps=0, ema=None, micro_batch=None)


class Account:
    """Tokens read, and how KL and FVU were in the first and in the last steps."""

    def __init__(self, steps: int) -> None:
        self._steps, self._part = steps, max(1, steps // COMPARED)
        self.tokens = torch.zeros((), dtype=torch.int64)
        self.sums = torch.zeros(2, 2, dtype=torch.float64)

    def add(self, step: int, tokens: int, result: FinetuneResult) -> None:
        """Take in a step, counted from 0."""
        self.tokens += tokens
        figures = torch.tensor([result.kl, result.training.main], dtype=torch.float64)
        for end, inside in enumerate((step < self._part, step >= self._steps - self._part)):
            if inside:
                self.sums[end] += figures / self._part

    def counts(self) -> dict[str, float]:
        """For the manifest."""
        (kl_first, fvu_first), (kl_last, fvu_last) = self.sums.tolist()
        tokens = int(self.tokens)
        return {
            "tokens": tokens,
            "kl_first": kl_first,
            "kl_last": kl_last,
            "fvu_first": fvu_first,
            "fvu_last": fvu_last,
        }

    def state_dict(self) -> dict[str, Tensor]:
        return {"tokens": self.tokens, "sums": self.sums}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.tokens, self.sums = state["tokens"], state["sums"]


class _Console(progress.ConsoleSink):
    SHOWN = ("kl", "main", "l0", "lr")


class _Finetuning:
    """One run of the stage, at its last checkpoint if there is one."""

    def __init__(self, run: Run, stage: Stage, model: LanguageModel) -> None:
        self.run, self.stage, self.recipe, self.model = run, stage, run.recipe, model
        self.steps = total_steps(run.recipe)
        saved = checkpoint.latest(stage.path)
        self.state = saved.progress if saved else checkpoint.Progress()
        sae = saved.sae if saved else files.load(loop.open_stage(run).path / "final")
        training = TrainStep(sae.to(device_of(run.recipe)), settings(run.recipe, sae.config.d))
        self.account = Account(self.steps)
        if saved:
            training.load_state_dict(saved.step)
            self.account.load_state_dict(saved.tracker)
        own, drop_first = run.recipe.finetune, run.recipe.capture.drop_first
        points = run.recipe
        self.step = FinetuneStep(model, points.hook_point, training, own.alpha, drop_first, points.output_hook_point)
        self._saved_at = time.monotonic()

    def make(self) -> None:
        begun, total = self.state.step, self.steps
        verb = f"going on after step {begun:,}" if begun else "fine-tuning"
        progress.note(f"  {verb}: {total:,} steps of {self.recipe.finetune.batch_tokens:,} tokens")
        sinks = self._sinks(begun)
        batches = self._reader().batches(Place(self.state.epoch, self.state.row))
        bar = progress.progress("finetune", total, "steps", begun)
        try:
            with loop.stop_signals() as stopped, bar as advance:
                for _, batch in zip(range(begun, total), batches, strict=False):
                    self._step(batch, sinks)
                    advance(1)
                    if stopped:
                        self._save()
                        name = signal.Signals(stopped[0]).name
                        progress.note(f"  stopped by {name}; checkpoint at step {self.state.step:,}")
                        raise KeyboardInterrupt
                    if time.monotonic() - self._saved_at > 60 * self.recipe.train.checkpoint_minutes:
                        self._save()
        finally:
            sinks.close()
        self._finish()

    def _sinks(self, begun: int) -> progress.Sinks:
        sinks: list[progress.Sink] = [progress.JsonlSink(self.stage.path / METRICS, begun), _Console()]
        if (mode := self.recipe.train.wandb) != "off":
            name, config = f"{self.recipe.name}-finetune", self.recipe.model_dump(mode="json")
            sinks.append(progress.WandbSink(self.run.path, name, config, mode))
        return progress.Sinks(sinks)

    def _reader(self) -> Reader:
        source = sentences.Sentences(self.run.folder("sentences"))
        every = np.arange(len(source))
        validating = split.is_validation(every, self.recipe.prepare.validation_fraction, self.recipe.seed)
        own, longest = self.recipe.finetune, self.recipe.corpus.max_tokens
        seed = seed_of(self.recipe)
        return Reader(source, every[~validating], self.model.tokenizer, longest, own.batch_tokens, seed)

    def _step(self, batch: Batch, sinks: progress.Sinks) -> None:
        try:
            result = self.step.step(batch.sentences)
        except TrainingError as error:
            reason = str(error).partition(";")[0]  # what mends it is another key here
            raise TrainingError(f"finetune: {reason}; lower finetune.lr (the last good checkpoint is kept)") from None
        self.account.add(self.state.step, batch.n_tokens, result)
        self.state.step += 1
        self.state.epoch, self.state.row = batch.after
        if self.state.step == self.steps or self.state.step % max(1, self.steps // LOG_POINTS) == 0:
            sinks.log(self.state.step, self._figures(result))

    def _figures(self, result: FinetuneResult) -> dict[str, float]:
        training = result.training
        return {
            "loss": training.loss,
            "main": training.main,
            "kl": result.kl,
            "kl_weight": result.weight,
            "aux": training.aux,
            "penalty": training.penalty,
            "l0": training.l0,
            "lr": training.lr,
            "tokens": int(self.account.tokens),
        }

    def _save(self) -> None:
        state, keep = self.step.training.state_dict(), self.recipe.train.keep_checkpoints
        sae = self.step.training.sae
        checkpoint.save(self.stage.path, sae, self.state, state, self.account.state_dict(), keep)
        self._saved_at = time.monotonic()

    def _finish(self) -> None:
        sae, counts = self.step.training.sae, self.account.counts()
        metadata = {"steps": self.steps, "tokens": counts["tokens"], "seed": seed_of(self.recipe)}
        files.save(sae, self.stage.path / "final", {"finetuned": metadata})
        for name in (files.WEIGHTS, files.CONFIG):
            self.stage.add_shard(f"final/{name}", rows=sae.config.n)
        self.stage.finish(steps=self.steps, **counts)
        checkpoint.remove(self.stage.path)
