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
    weights, exchange = step.updater.weights, step.sae.exchange
    spread = exchange.each(len(dead))
    if not sum(spread):
        return 0
    drawn = _draw(step, batches, sum(spread), generator)
    before = sum(spread[: exchange.latent.rank])
    rows, targets = (column[before : before + len(dead)] for column in (drawn.rows, drawn.targets))
    dead = dead[: len(rows)]
    live = torch.ones_like(weights["b_enc"], dtype=torch.bool)
    live[dead] = False
    live = exchange.gather_latents(live)
    norms = exchange.gather_latents(weights["W_enc"].norm(dim=1))
    norm = norms[live].mean() if bool(live.any()) else norms.mean()
    start = {
        "W_dec": _directions(targets),
        "W_enc": ENCODER_SHARE * norm * _directions(rows),
        "b_enc": torch.zeros_like(rows[:, 0]),
    }
    if "log_threshold" in weights:
        start["log_threshold"] = exchange.gather_latents(weights["log_threshold"])[live].median().expand(len(dead))
    for name, value in start.items():
        weights[name][dead] = value
        for moment in step.updater.moments[name]:
            moment[dead] = 0
        if step.average is not None:
            step.average.weights[name][dead] = value
    step.dead.silent_for[dead] = 0
    return len(drawn.keys)


def _directions(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _draw(step: TrainStep, batches: Iterable[Sample], count: int, generator: torch.Generator) -> _Drawn:
    """`count` normalised activations, without replacement, weighted by the square of their loss.

    Every data rank looks at a part of each batch. The largest log(u) / weight win (Efraimidis and Spirakis, 2006,
    "Weighted random sampling with a reservoir").
    """
    sae, sparsity = step.sae, step.sae.sparsity
    exchange, best = sae.exchange, None
    for batch in batches:
        z = sae.normalise(batch.x.to(sae.W_enc.device)).z
        target = z if sae.b_dec is None else sae.standardise_target(batch.target.to(sae.W_enc.device)) - sae.b_dec
        if sae.W_skip is not None:
            target = target - z @ sae.W_skip.T
        kernels = choose(z.device)
        selection = sparsity.select(kernels, z, sae.encoder(), step.workspace, exact=False)
        values = sparsity.activate(selection, sae.encoder())
        output = exchange.add_up(kernels.decode(values, selection.pattern, step.updater.weights["W_dec"]))()
        loss = (output - target).square().sum(1).double()
        uniform = torch.rand(exchange.whole(len(z)), generator=generator, dtype=torch.float64).to(z.device)
        uniform = uniform[exchange.data.rank * len(z) :][: len(z)]
        fresh = _Drawn(uniform.log() / loss.square().clamp_min(1e-300), z, target)
        both = fresh if best is None else _Drawn(*map(torch.cat, zip(best, fresh, strict=True)))
        best = _most_likely(both, count)
    if best is None:
        none = sae.W_enc.new_empty
        return _Drawn(none(0), none(0, sae.config.d), none(0, sae.config.width_out))
    if exchange.data.ranks == 1:
        return best
    return _most_likely(_Drawn(*map(exchange.gather_data, best)), count)


def _most_likely(drawn: _Drawn, count: int) -> _Drawn:
    kept = torch.topk(drawn.keys, min(count, len(drawn.keys))).indices
    return _Drawn(*(column[kept] for column in drawn))
