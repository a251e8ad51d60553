"""From a recipe to what training works with: the number of steps, the settings of a step, the untrained SAE."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.errors import TrainingError
from monosem.ranks import Ranks
from monosem.recipe import Recipe
from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.sae.exchange import ALONE, Exchange
from monosem.sae.initialise import Statistics as Normalising
from monosem.sae.initialise import dataset_statistics, geometric_median
from monosem.sae.losses import AuxK
from monosem.sae.nested import Nested
from monosem.sae.objective import Objective
from monosem.sae.penalties import Penalty
from monosem.store.pairs import Sample
from monosem.store.stats import Statistics
from monosem.train.optim import OptimSettings
from monosem.train.source import Known
from monosem.train.step import StepSettings

ENCODER_NORMS = {"topk": 1.0, "abstopk": 1.0}
ENCODER_NORM = 0.3
"""Of the encoder's rows at the start, where the recipe leaves it open: by sparsity, and of all others."""
BIAS_RATES = {"relu": 10.0}
"""Of the encoder's biases, where the recipe leaves it open; 1 for other sparsities."""


@dataclass(frozen=True)
class Plan:
    """The numbers that follow from the recipe and the size of the training set."""

    total_steps: int
    log_every: int
    validate_every: int
    resample_at: frozenset[int]
    """Steps after which dead latents start anew."""

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
        total = max(1, int(train.epochs * an_epoch))
        return cls(
            total_steps=total,
            log_every=max(1, int(an_epoch / train.log_points)),
            validate_every=max(1, math.ceil(an_epoch / train.validations)),  # none just before the last step's
            resample_at=frozenset(round(share * total) for share in train.resample),
        )


def seed_of(recipe: Recipe) -> int:
    """The seed of initialisation and batch order."""
    return recipe.seed if recipe.train.seed is None else recipe.train.seed


def order_seed_of(recipe: Recipe) -> int:
    """The seed of batch order alone."""
    return seed_of(recipe) if recipe.train.order_seed is None else recipe.train.order_seed


def device_of(recipe: Recipe, ranks: Ranks | None = None) -> torch.device:
    """Where training runs; each rank of a machine has a GPU of its own. ranks: None: this process alone."""
    name = (ranks or Ranks()).device(recipe.train.device)
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def step_settings(recipe: Recipe, plan: Plan, d: int) -> StepSettings:
    """The settings of every step, for activations of width `d`."""
    sae, train = recipe.sae, recipe.train
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
        threshold_rate=train.threshold_rate,
        bias_rate=BIAS_RATES.get(sae.sparsity, 1.0) if train.bias_rate is None else train.bias_rate,
        clip=train.clip,
    )
    nested = None
    if sae.prefixes:
        nested = Nested.matryoshka(sae.prefixes, sae.n)
    elif train.multi_k:
        nested = Nested.multi_topk(sae.k, train.multi_k, train.multi_k_weight)
    objective = Objective(
        aux=AuxK(k_aux=train.k_aux, coefficient=train.aux_coefficient, gate=train.auxk_gate),
        penalty=_penalty(recipe, steps),
        nested=nested,
        free_norms=train.decoder_norm == "free",
        exact=train.precision == "float32",
    )
    return StepSettings(
        optim,
        objective,
        dead_window=train.dead_window,
        k_start=min(d, sae.n) if train.k_anneal_start is None else train.k_anneal_start,
        k_steps=round(train.k_anneal_fraction * steps),
        bandwidth=train.bandwidth,
        ema=train.ema,
        micro_batch=train.micro_batch,
    )


def _penalty(recipe: Recipe, steps: int) -> Penalty | None:
    train = recipe.train
    usual = {"relu": "l1", "jumprelu": "l0"}.get(recipe.sae.sparsity)
    if usual is None:
        return None
    return Penalty(
        kind=train.penalty or usual,  # pyright: ignore[reportArgumentType]
        coefficient=train.penalty_coefficient,
        target=recipe.sae.k,
        scale=train.tanh_scale,
        silent=train.silent_coefficient,
        warmup_steps=round(train.penalty_warmup_fraction * steps),
    )


def new_sae(
    recipe: Recipe, known: Known, sample: Sample, target: Known | None = None, exchange: Exchange = ALONE
) -> Autoencoder:
    """The untrained SAE of a recipe.

    Args:
        known: of the training set.
        sample: raw activations, for a geometric median that is not known.
        target: of what a transcoder shall make of them. None: an autoencoder.
        exchange: with the processes that hold the other latents.
    """
    statistics = known.statistics
    config = SaeConfig(
        d=len(statistics.mean),
        n=recipe.sae.n,
        k=recipe.sae.k,
        sparsity=recipe.sae.sparsity,
        normalisation=recipe.sae.normalisation,
        model=recipe.model.source,
        hook_point=recipe.hook_point,
        norm_threshold=known.norm_threshold,
        prefixes=recipe.sae.prefixes,
        d_out=None if target is None else len(target.statistics.mean),
        target_hook_point="" if target is None else recipe.output_hook_point,
        target_norm_threshold=None if target is None else target.norm_threshold,
        skip=recipe.sae.skip,
    )
    norm = recipe.sae.encoder_norm
    sae = Autoencoder(
        config,
        torch.Generator().manual_seed(seed_of(recipe)),
        _normalising(statistics) if config.normalisation == "dataset" else None,
        encoder_norm=ENCODER_NORMS.get(config.sparsity, ENCODER_NORM) if norm is None else norm,
        threshold=recipe.sae.threshold,
        target=_normalising(target.statistics) if target is not None and config.normalised_target else None,
        exchange=exchange,
    )
    with torch.no_grad():
        sae.b_pre.copy_(_centre(recipe, known, sample.x, lambda x: sae.standardise(x).y))
        if sae.b_dec is not None and target is not None:
            sae.b_dec.copy_(_centre(recipe, target, sample.target, sae.standardise_target))
    return sae


def _normalising(statistics: Statistics) -> Normalising:
    return dataset_statistics(torch.from_numpy(statistics.mean), torch.from_numpy(statistics.variance))


def _centre(recipe: Recipe, known: Known, sample: Tensor, standardise: Callable[[Tensor], Tensor]) -> Tensor:
    """[d] where a bias starts that all activations share."""
    match recipe.sae.b_pre:
        case "mean":
            return standardise(torch.from_numpy(known.statistics.mean)[None].float())[0]
        case "geometric_median" if known.median is not None:
            return standardise(torch.from_numpy(known.median)[None].float())[0]
        case "geometric_median":
            return geometric_median(standardise(sample))
        case "zero":
            return torch.zeros(len(known.statistics.mean))
