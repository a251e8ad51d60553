"""The optimizer's settings and their course over training: learning rate, Adam's constants, clipping, k."""

import math
from dataclasses import dataclass
from typing import Literal

Schedule = Literal["constant", "cosine", "linear"]


@dataclass(frozen=True)
class OptimSettings:
    """AdamW and its learning rate. The defaults are the reference system's, for its batch of 8,192."""

    lr: float = 5e-5
    """Peak learning rate."""
    lr_final: float = 1e-5
    """Where `cosine` and `linear` end."""
    schedule: Schedule = "cosine"
    """After the warm-up: `constant`; `cosine` over all the rest; `linear` over the last `decay_steps`."""
    warmup_steps: int = 0
    """Steps in which the rate rises linearly."""
    decay_steps: int = 0
    """Last steps, in which `linear` falls."""
    total_steps: int = 1
    """Length of the course."""
    betas: tuple[float, float] = (0.85, 0.9999)
    eps: float = 6.25e-10
    weight_decay: float = 0.0
    threshold_rate: float = 1.0
    """Learning rate of JumpReLU's log thresholds, as a multiple of the others'."""
    bias_rate: float = 1.0
    """The same of the encoder's biases."""
    clip: float | None = None
    """Largest norm of all gradients together. None: no clipping."""

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0; beyond `total_steps` it stays at its end."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "cosine":
            done = _progress(step, self.warmup_steps, self.total_steps)
            return self.lr_final + (self.lr - self.lr_final) * (1 + math.cos(math.pi * done)) / 2
        done = _progress(step, self.total_steps - self.decay_steps, self.total_steps)
        return self.lr + (self.lr_final - self.lr) * done


@dataclass(frozen=True)
class KSchedule:
    """k annealing: from `start` down to `k` over the first steps (Anthropic and others; see 2410.20526)."""

    k: int
    start: int = 0
    """k of the first step; only used with `steps` > 0."""
    steps: int = 0

    def at(self, step: int) -> int:
        """k of a step, counted from 0."""
        if step >= self.steps:
            return self.k
        return round(self.start + (self.k - self.start) * step / self.steps)


def _progress(step: int, first: int, end: int) -> float:
    """Share of the way from step `first` to the last one before `end`, between 0 and 1."""
    return min(1.0, max(0.0, (step - first) / max(1, end - 1 - first)))
