"""The losses of `monosem.sae.objective` as their definitions read: dense, in float64, with gradients by autograd."""

from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.sae.objective import Objective

Weights = dict[str, Tensor]
BANDWIDTH = 0.9


@dataclass(frozen=True)
class Case:
    """One sparsity with one loss."""

    sparsity: str
    objective: Objective
    d: int = 13
    n: int = 60
    k: int = 5
    batch: int = 24
    dead: int = 0
    d_out: int | None = None
    """Of a transcoder."""
    skip: bool = False

    def sae(self, seed: int = 0) -> Autoencoder:
        generator = torch.Generator().manual_seed(seed)
        config = SaeConfig(
            self.d, self.n, self.k, self.sparsity, normalisation="none", d_out=self.d_out, skip=self.skip
        )
        sae = Autoencoder(config, generator).double()
        for parameter in sae.parameters():  # leave the tied start, so that a mix-up of encoder and decoder shows
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if self.objective.nested is None or not self.objective.free_norms:
            sae.W_dec.data /= 1.0 if self.objective.free_norms else sae.W_dec.norm(dim=1, keepdim=True)
        if sae.log_threshold is not None:
            sae.log_threshold.data += 1.5
        return sae

    def x(self, seed: int = 1) -> Tensor:
        return 2 * torch.randn(self.batch, self.d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def target(self, x: Tensor) -> Tensor:
        """What shall be reconstructed: `x`, or something that no skip can give."""
        if self.d_out is None:
            return x
        generator = torch.Generator().manual_seed(5)
        return 2 * torch.tanh(x @ torch.randn(self.d, self.d_out, generator=generator, dtype=x.dtype)) + 0.5

    def past_codes(self, weights: Weights, x: Tensor) -> Tensor:
        """What is added to the decoder's output."""
        if self.d_out is None:
            return weights["b_pre"]
        return weights["b_dec"] + ((x - weights["b_pre"]) @ weights["W_skip"].T if self.skip else 0)

    def dead_latents(self) -> Tensor:
        return torch.arange(0, self.n, 3)[: self.dead]


class Jump(torch.autograd.Function):
    """JumpReLU and the step, with their straight-through estimators (Rajamanoharan et al., 2024, section 4).

    The rectangle is a share of the threshold wide, and both arguments of the step have its gradient.
    """

    @staticmethod
    def forward(ctx, pre: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(pre, threshold)
        active = (pre > threshold).to(pre.dtype)
        return pre * active, active

    @staticmethod
    def backward(ctx, d_value: Tensor, d_active: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, threshold = ctx.saved_tensors
        width = BANDWIDTH * threshold
        jump = ((pre - threshold).abs() < width / 2) / width * (threshold * d_value + d_active)
        return d_value * (pre > threshold) + jump, -jump.sum(0)


def kept(scores: Tensor, k: int) -> Tensor:
    """A mask of the k largest of the last dimension."""
    return torch.zeros_like(scores).scatter(-1, scores.topk(k).indices, 1.0)


def plain_codes(case: Case, weights: Weights, pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Dense code values, and which are active."""
    match case.sparsity:
        case "topk":
            h = pre.relu() * kept(pre.detach(), k)
        case "abstopk":
            h = pre * kept(pre.detach().abs(), k)
        case "batchtopk":
            h = pre.relu() * kept(pre.detach().relu().flatten(), k * len(pre)).view_as(pre)
        case "relu":
            h = pre.relu()
        case _:
            return Jump.apply(pre, weights["log_threshold"].exp())  # pyright: ignore[reportReturnType]
    return h, (h != 0).to(h.dtype)


def plain_loss(case: Case, weights: Weights, x: Tensor) -> Tensor:
    """The loss as its definition reads, dense, without AuxK."""
    objective, penalty = case.objective, case.objective.penalty
    z = x - weights["b_pre"]
    pre = z @ weights["W_enc"].T + weights["b_enc"]
    target, past = case.target(x), case.past_codes(weights, x)
    variance = (target - target.mean(0)).square().sum()
    nested = objective.nested
    if nested is None:
        h, active = plain_codes(case, weights, pre, case.k)
        loss = (target - h @ weights["W_dec"] - past).square().sum() / variance
    elif nested.by == "rank":
        loss, (h, active) = x.new_zeros(()), plain_codes(case, weights, pre, case.k)
        for size, weight in zip(nested.sizes, nested.weights, strict=True):
            part, _ = plain_codes(case, weights, pre, size)
            loss = loss + weight * (target - part @ weights["W_dec"] - past).square().sum() / variance
    else:
        loss, (h, active) = x.new_zeros(()), plain_codes(case, weights, pre, case.k)
        for size, weight in zip(nested.sizes, nested.weights, strict=True):
            part = h[:, :size] @ weights["W_dec"][:size]
            loss = loss + weight * (target - part - past).square().sum() / variance
    if penalty is None:
        return loss
    norms = weights["W_dec"].norm(dim=1) if objective.free_norms else x.new_ones(case.n)
    if penalty.kind == "l1":
        loss = loss + penalty.coefficient * (h * norms).sum() / variance
    elif penalty.kind == "tanh":
        loss = loss + penalty.coefficient * torch.tanh(penalty.scale * h * norms).sum() / variance
    else:
        loss = loss + penalty.coefficient * (active.sum() / len(x) / penalty.target - 1) ** 2
    if penalty.silent:
        gap = (weights["log_threshold"].exp() - pre).relu()
        loss = loss + penalty.silent * (gap * norms).sum() / variance
    return loss


def plain_aux(case: Case, weights: Weights, x: Tensor) -> Tensor:
    """AuxK with its coefficient; the residual is a constant."""
    aux, dead = case.objective.aux, case.dead_latents()
    if not len(dead):
        return x.new_zeros(())
    z = x - weights["b_pre"]
    pre = z @ weights["W_enc"].T + weights["b_enc"]
    h, _ = plain_codes(case, weights, pre, case.k)
    target = case.target(x)
    residual = (target - case.past_codes(weights, x) - h @ weights["W_dec"]).detach()
    dead_pre, k = pre[:, dead], min(aux.k_aux, len(dead))
    if case.sparsity == "abstopk":
        codes = dead_pre * kept(dead_pre.detach().abs(), k)
    else:
        codes = (dead_pre * kept(dead_pre.detach(), k)).relu()
    scale = min(len(dead) / aux.k_aux, 1)
    variance = (target - target.mean(0)).square().sum()
    return aux.coefficient * scale * (codes @ weights["W_dec"][dead] - residual).square().sum() / variance
