"""Dead latents start anew from activations that are reconstructed badly.

Bricken et al. (2023), "Towards monosemanticity", appendix on neuron resampling: inputs are drawn with probability
proportional to the square of their loss; a dead latent's decoder row becomes such an input, its encoder row the same
direction at a fifth of the live rows' mean norm, its bias zero, its optimizer state nothing. A transcoder's decoder row
becomes what it should have made of the input.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.kernels import choose
from monosem.store.pairs import Sample
from monosem.train.step import TrainStep

ENCODER_SHARE = 0.2


class _Drawn(NamedTuple):
    keys: Tensor
    """[m] float64: the largest win."""
    rows: Tensor
    """[m, d]"""
    targets: Tensor
    """[m, d_out]"""


@torch.no_grad()
def resample(step: TrainStep, batches: Iterable[Sample], generator: torch.Generator) -> int:
    """Give every dead latent of `step` a new start; returns how many there were.

    Args:
        batches: raw activations, whose losses decide.
        generator: decides the draw.
    """
    dead = step.dead.dead()
    if not len(dead):
        return 0
    _, rows, targets = _draw(step, batches, len(dead), generator)
    dead = dead[: len(rows)]
    weights, sae = step.updater.weights, step.sae
    live = torch.ones(sae.config.n, dtype=torch.bool, device=dead.device)
    live[dead] = False
    norm = weights["W_enc"][live].norm(dim=1).mean() if bool(live.any()) else weights["W_enc"].norm(dim=1).mean()
    start = {
        "W_dec": _directions(targets),
        "W_enc": ENCODER_SHARE * norm * _directions(rows),
        "b_enc": torch.zeros_like(rows[:, 0]),
    }
    if "log_threshold" in weights:
        start["log_threshold"] = weights["log_threshold"][live].median().expand(len(dead))
    for name, value in start.items():
        weights[name][dead] = value
        for moment in step.updater.moments[name]:
            moment[dead] = 0
        if step.average is not None:
            step.average.weights[name][dead] = value
    step.dead.silent_for[dead] = 0
    return len(dead)


def _directions(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _draw(step: TrainStep, batches: Iterable[Sample], count: int, generator: torch.Generator) -> _Drawn:
    """`count` normalised activations, without replacement, weighted by the square of their loss.

    The largest log(u) / weight win (Efraimidis and Spirakis, 2006, "Weighted random sampling with a reservoir").
    """
    sae, sparsity = step.sae, step.sae.sparsity
    best = None
    for batch in batches:
        z = sae.normalise(batch.x.to(sae.W_enc.device)).z
        target = z if sae.b_dec is None else sae.standardise_target(batch.target.to(sae.W_enc.device)) - sae.b_dec
        if sae.W_skip is not None:
            target = target - z @ sae.W_skip.T
        kernels = choose(z.device)
        selection = sparsity.select(kernels, z, sae.encoder(), step.workspace, exact=False)
        values = sparsity.activate(selection, sae.encoder())
        error = kernels.decode(values, selection.pattern, step.updater.weights["W_dec"]) - target
        loss = error.square().sum(1).double()
        uniform = torch.rand(len(z), generator=generator, dtype=torch.float64).to(z.device)
        fresh = _Drawn(uniform.log() / loss.square().clamp_min(1e-300), z, target)
        both = fresh if best is None else _Drawn(*map(torch.cat, zip(best, fresh, strict=True)))
        kept = torch.topk(both.keys, min(count, len(both.keys))).indices
        best = _Drawn(*(column[kept] for column in both))
    if best is None:
        none = sae.W_enc.new_empty
        return _Drawn(none(0), none(0, sae.config.d), none(0, sae.config.width_out))
    return best
