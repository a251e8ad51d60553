"""Our trainer as a contestant of `synthetic.py`; writes the SAE in its own format."""

import torch
from synthetic_task import Job, Task, serve
from torch import Tensor

from monosem.recipe.training import TrainRecipe
from monosem.sae import files
from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.sae.losses import AuxK
from monosem.sae.nested import Nested
from monosem.sae.objective import Objective
from monosem.sae.penalties import Penalty
from monosem.train.optim import OptimSettings
from monosem.train.settings import BIAS_RATES, ENCODER_NORM, ENCODER_NORMS
from monosem.train.step import StepSettings, TrainStep

# keys of the recipe that are not at their defaults
AUX_COEFFICIENTS = {"topk": 1 / 2, "batchtopk": 1 / 2, "matryoshka": 1 / 2}
AUX_COEFFICIENT = 1 / 4  # dictionary_learning's 1/32 is of the residual's variance, a seventh of the whole here
NORMS = {"batchtopk": 1.0, "matryoshka": 1.0}
"""Of the encoder's rows at the start."""
K_ANNEAL = {"topk": (2, 0.6), "abstopk": (3, 0.8), "batchtopk": (2, 0.6)}
"""k of the first step as a multiple, and the share of the steps over which it falls."""
TOPK_BIAS_RATE = 3.0
NESTED_OVER = {"matryoshka": "batchtopk", "multi-topk": "topk"}
"""Losses over another sparsity; the peers' Matryoshka SAEs are BatchTopK, too."""


def train(task: Task, job: Job, batches: list[Tensor]) -> None:
    """One run; the SAE goes to `job.out`."""
    config = SaeConfig(
        d=task.d,
        n=task.n,
        k=task.k,
        sparsity=NESTED_OVER.get(job.sparsity, job.sparsity),
        normalisation="none",
        prefixes=task.prefixes if job.sparsity == "matryoshka" else (),
    )
    norm = NORMS.get(job.sparsity, ENCODER_NORMS.get(config.sparsity, ENCODER_NORM))
    sae = Autoencoder(config, torch.Generator().manual_seed(job.seed), encoder_norm=norm, threshold=None)
    optim = OptimSettings(
        lr=job.lr,
        lr_final=0.0,
        schedule="linear",
        warmup_steps=task.warm_up_steps,
        decay_steps=task.decay_steps,
        total_steps=task.steps,
        betas=job.betas or (0.9, 0.999),
        eps=1e-8,
        threshold_rate=TrainRecipe().threshold_rate,
        bias_rate=TOPK_BIAS_RATE if config.sparsity == "topk" else BIAS_RATES.get(config.sparsity, 1.0),
    )
    multiple, share = K_ANNEAL.get(job.sparsity, (1, 0.0))
    settings = StepSettings(
        optim,
        objective(task, job),
        dead_window=task.dead_steps * task.batch,
        k_start=multiple * task.k,
        k_steps=round(share * task.steps),
        bandwidth=TrainRecipe().bandwidth,
    )
    step = TrainStep(sae, settings)
    for x in batches:
        step.step(x)
    files.save(sae, job.out, {"steps": task.steps})


def objective(task: Task, job: Job) -> Objective:
    """The loss of a sparsity."""
    nested = penalty = None
    if job.sparsity == "matryoshka":
        nested = Nested.matryoshka(task.prefixes, task.n)
    if job.sparsity == "multi-topk":
        nested = Nested.multi_topk(task.k, (4 * task.k,), 1 / 8)
    if job.sparsity == "jumprelu":
        penalty = Penalty("l0", 1.0, target=job.penalty, warmup_steps=task.warm_up_steps)
    if job.sparsity == "relu":
        penalty = Penalty("l1", job.penalty, warmup_steps=task.warm_up_steps)
    aux = AuxK(k_aux=task.d // 2, coefficient=AUX_COEFFICIENTS.get(job.sparsity, AUX_COEFFICIENT))
    return Objective(aux, penalty, nested)


if __name__ == "__main__":
    serve(train)
