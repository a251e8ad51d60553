"""What every contestant of `synthetic.py` is given: the same data, steps and course of the learning rate.

A contestant is trained in a process of its own, in the environment of its package, which need not have monosem: `serve`
reads jobs from standard input, one JSON object a line, and answers each when the trained weights are on disk.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

WARM_UP, DECAY = 0.05, 0.2
"""Shares of the steps in which the rate rises from 0, and falls to 0 at the end."""
MATRYOSHKA = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Prefixes of the latents that reconstruct by themselves, as shares, beside all of them."""
DONE = "trained "


@dataclass(frozen=True)
class Task:
    """The work, the same for all."""

    n_true: int
    d: int
    true_l0: float
    n: int
    k: int
    batch: int
    steps: int
    dead_steps: int
    """A latent silent for so many steps is dead."""

    @property
    def prefixes(self) -> tuple[int, ...]:
        """`MATRYOSHKA` in latents."""
        return tuple(round(share * self.n) for share in MATRYOSHKA)

    @property
    def warm_up_steps(self) -> int:
        return max(1, round(WARM_UP * self.steps))

    @property
    def decay_steps(self) -> int:
        return max(1, round(DECAY * self.steps))

    def rate(self, step: int) -> float:
        """Factor on the learning rate."""
        return min(1.0, (step + 1) / self.warm_up_steps, (self.steps - step) / self.decay_steps)


@dataclass(frozen=True)
class Job:
    """One training run."""

    sparsity: str
    lr: float
    penalty: float
    """L1 coefficient of `relu`, L0 target of `jumprelu`; of no use to the others."""
    betas: tuple[float, float] | None
    """Adam's averaging factors. None: those of the package's own trainer."""
    seed: int
    """Of the initialisation."""
    data: Path
    """The batches: `x [steps * batch, d]` float32, centred and with E|x|^2 = d."""
    out: Path
    """The folder for the weights."""


Train = Callable[[Task, Job, list[Tensor]], None]


def serve(train: Train) -> None:
    """Do jobs until standard input ends; the task is the only argument of the command line."""
    torch.set_num_threads(1)
    task = Task(**json.loads(sys.argv[1]))
    for line in sys.stdin:
        given = json.loads(line)
        betas = given["betas"] and tuple(given["betas"])
        job = Job(**(given | {"data": Path(given["data"]), "out": Path(given["out"]), "betas": betas}))
        batches = list(load_file(job.data)["x"].split(task.batch))
        torch.manual_seed(job.seed)
        started = time.perf_counter()
        train(task, job, batches)
        print(DONE + json.dumps({"seconds": time.perf_counter() - started}), flush=True)
