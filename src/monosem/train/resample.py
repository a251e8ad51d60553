"""Dead latents start anew from activations that are reconstructed badly.

Bricken et al. (2023), "Towards monosemanticity", appendix on neuron resampling: inputs are drawn with probability
proportional to the square of their loss; a dead latent's decoder row becomes such an input, its encoder row the same
direction at a fifth of the live rows' mean norm, its bias zero, its optimizer state nothing.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.kernels import choose
from monosem.train.step import TrainStep

ENCODER_SHARE = 0.2


class _Drawn(NamedTuple):
    keys: Tensor
    """[m] float64: the largest win."""
    rows: Tensor
    """[m, d]"""


@torch.no_grad()
def resample(step: TrainStep, batches: Iterable[Tensor], generator: torch.Generator) -> int:
    """Give every dead latent of `step` a new start; returns how many there were.

    Args:
        batches: raw activations [B, d], whose losses decide.
        generator: decides the draw.
    """
    dead = step.dead.dead()
    weights, exchange = step.updater.weights, step.sae.exchange
    spread = exchange.each(len(dead))
    if not sum(spread):
        return 0
    rows = _draw(step, batches, sum(spread), generator)
    drawn, before = len(rows), sum(spread[: exchange.latent.rank])
    rows = rows[before : before + len(dead)]
    dead = dead[: len(rows)]
    live = torch.ones_like(weights["b_enc"], dtype=torch.bool)
    live[dead] = False
    live = exchange.gather_latents(live)
    norms = exchange.gather_latents(weights["W_enc"].norm(dim=1))
    norm = norms[live].mean() if bool(live.any()) else norms.mean()
    directions = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    start = {"W_dec": directions, "W_enc": ENCODER_SHARE * norm * directions, "b_enc": torch.zeros_like(rows[:, 0])}
    if "log_threshold" in weights:
        start["log_threshold"] = exchange.gather_latents(weights["log_threshold"])[live].median().expand(len(dead))
    for name, value in start.items():
        weights[name][dead] = value
        for moment in step.updater.moments[name]:
            moment[dead] = 0
        if step.average is not None:
            step.average.weights[name][dead] = value
    step.dead.silent_for[dead] = 0
    return drawn


def _draw(step: TrainStep, batches: Iterable[Tensor], count: int, generator: torch.Generator) -> Tensor:
    """[count, d] normalised activations, without replacement, weighted by the square of their loss.

    Every data rank looks at a part of each batch. The largest log(u) / weight win (Efraimidis and Spirakis, 2006,
    "Weighted random sampling with a reservoir").
    """
    sae, sparsity = step.sae, step.sae.sparsity
    exchange, best = sae.exchange, None
    for x in batches:
        z = sae.normalise(x.to(sae.W_enc.device)).z
        kernels = choose(z.device)
        selection = sparsity.select(kernels, z, sae.encoder(), step.workspace, exact=False)
        values = sparsity.activate(selection, sae.encoder())
        output = exchange.add_up(kernels.decode(values, selection.pattern, step.updater.weights["W_dec"]))()
        loss = (output - z).square().sum(1).double()
        uniform = torch.rand(exchange.whole(len(z)), generator=generator, dtype=torch.float64).to(z.device)
        uniform = uniform[exchange.data.rank * len(z) :][: len(z)]
        fresh = _Drawn(uniform.log() / loss.square().clamp_min(1e-300), z)
        both = fresh if best is None else _Drawn(torch.cat([best.keys, fresh.keys]), torch.cat([best.rows, fresh.rows]))
        kept = torch.topk(both.keys, min(count, len(both.keys))).indices
        best = _Drawn(both.keys[kept], both.rows[kept])
    if best is None:
        return step.sae.W_enc.new_empty(0, sae.config.d)
    keys, rows = exchange.gather_data(best.keys), exchange.gather_data(best.rows)
    return rows[torch.topk(keys, min(count, len(keys))).indices] if exchange.data.ranks > 1 else rows
