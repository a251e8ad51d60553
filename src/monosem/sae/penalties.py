"""Penalties that keep codes sparse where their number is not fixed, with their gradients written out.

All are sums over the batch divided by the batch's total variance, as the squared error is; so a coefficient means what
it does in its paper for inputs of E|x|^2 = d: loss = |x - x_hat|^2 + coefficient * penalty, per activation.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from monosem.kernels import sums_at
from monosem.sae.exchange import ALONE, Exchange

PenaltyName = Literal["l1", "tanh", "l0"]


@dataclass(frozen=True)
class Penalty:
    """A penalty and its settings.

    `l1`: sum_i f_i |dec_i| (Bricken et al., 2023; decoder norms as in Anthropic's update of April 2024).
    `tanh`: sum_i tanh(scale f_i |dec_i|) (Anthropic's update of January 2025, with JumpReLU).
    `l0`: (L0 / target - 1)^2 of the batch, without the division by the variance (Rajamanoharan et al., 2024, "Jumping
    ahead", appendix on training to a fixed L0); needs a sparsity that gives being active a gradient.
    """

    kind: PenaltyName
    coefficient: float
    target: float = 0.0
    """L0 aimed at, for `l0`."""
    scale: float = 4.0
    """For `tanh`."""
    silent: float = 0.0
    """Weight of sum_i relu(threshold_i - a_i) |dec_i|, which draws silent latents up (January 2025: 3e-6)."""
    warmup_steps: int = 0
    """Steps in which the coefficient rises linearly from 0."""

    def coefficient_at(self, step: int) -> float:
        """The coefficient of a step, counted from 0."""
        return self.coefficient * min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else self.coefficient


class PenaltyGradients(NamedTuple):
    """A penalty, with its coefficient, and its gradients."""

    loss: float
    values: Tensor | None
    """[nnz] of the code values."""
    active: float
    """Of every entry's being active."""
    norms: Tensor | None
    """[n] of the norms of the decoder's rows."""


def penalise(
    penalty: Penalty,
    coefficient: float,
    batch: int,
    codes: tuple[Tensor, Tensor],
    norms: Tensor | None,
    variance: float,
    exchange: Exchange = ALONE,
) -> PenaltyGradients:
    """The penalty of one batch: of many processes each gives its part, and they add up.

    Args:
        batch: B, activations.
        codes: latents [nnz] and values [nnz] of all their entries.
        norms: [n] of the decoder's rows. None: all are 1.
        variance: total variance of the batch.
    """
    latents, values = codes
    if penalty.kind == "l0":
        wanted = exchange.whole(batch) * penalty.target
        excess = exchange.total([int((values != 0).sum())])[0] / wanted - 1
        slope = 2 * coefficient * excess / wanted
        return PenaltyGradients(coefficient * excess**2 if exchange.lead else 0.0, None, slope, None)
    factor = coefficient / variance
    norm = values.new_ones(()) if norms is None else norms[latents]
    if penalty.kind == "l1":
        amount, slope = values * norm, torch.ones_like(values)
    else:
        amount = torch.tanh(penalty.scale * values * norm)
        slope = penalty.scale * (1 - amount.square())
    d_norms = None
    if norms is not None:
        d_norms = sums_at(latents, factor * slope * values, len(norms))
    return PenaltyGradients(factor * float(amount.double().sum()), factor * slope * norm, 0.0, d_norms)


class SilentGradients(NamedTuple):
    """The penalty on silent latents and its gradients, of which the encoder's is of rank one but for active entries."""

    loss: float
    pre: Tensor
    """[nnz] to be added at the entries of the pattern."""
    bias: Tensor
    """[n]"""
    threshold: Tensor
    """[n]"""
    norms: Tensor | None
    """[n]"""
    outer: tuple[Tensor, Tensor]
    """([n], [d]): their outer product is to be added to the gradient of the encoder's weight."""


def penalise_silent(
    weight: float,
    z: Tensor,
    encoder: tuple[Tensor, Tensor, Tensor],
    latents: Tensor,
    pre: Tensor,
    norms: Tensor | None,
    variance: float,
) -> SilentGradients:
    """`weight * sum relu(threshold - a) |dec|` over every latent of every vector, at the cost of the entries alone.

    The sum runs over all entries as if all were silent, which needs only `sum_b z_b`; active ones are taken out again.

    Args:
        encoder: weight [n, d], bias [n], threshold [n].
        latents, pre: [nnz] entries that include every active one.
    """
    w_enc, bias, threshold = encoder
    factor = weight / variance
    total = z.sum(0)
    gap = torch.where(pre > threshold[latents], threshold[latents] - pre, 0)
    active = (gap != 0).to(pre.dtype)
    lack = len(z) * (threshold - bias) - w_enc @ total
    lack -= sums_at(latents, gap, len(lack))  # [n]: sum over silent entries
    silent = len(z) - sums_at(latents, active, len(lack))
    scale = torch.full_like(bias, factor) if norms is None else factor * norms
    return SilentGradients(
        loss=float((scale * lack).double().sum()),
        pre=scale[latents] * active,
        bias=-scale * len(z),
        threshold=scale * silent,
        norms=None if norms is None else factor * lack,
        outer=(-scale, total),
    )
