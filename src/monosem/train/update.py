"""From gradients to weights: projection, AdamW, unit rows, and their running average.

Where nothing needs a gradient as a tensor, it never becomes one: a block of latents is computed and applied at a time.
Clipping, parts of a batch, several data ranks, free decoder norms and gradients of rank one need it, and pay for it.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.kernels import AdamSettings, ByLatent, DenseRows, Kernels, Moments, Workspace
from monosem.sae.autoencoder import BY_LATENT, Autoencoder
from monosem.sae.exchange import Exchange, Pending
from monosem.sae.objective import Gradients
from monosem.train.optim import OptimSettings


class _Sums(NamedTuple):
    """Gradients of a batch, added up over its parts."""

    w_dec: Tensor
    w_enc: Tensor
    vectors: dict[str, Tensor]


class _Arriving(NamedTuple):
    """The same, on their way from the other data ranks."""

    w_dec: Pending
    w_enc: Pending
    vectors: dict[str, Pending]


class Updater:
    """Applies gradients to `sae` in place.

    Unless the decoder's norms are free its rows are unit vectors after every step, and the part of their gradient along
    them is taken out before it (Bricken et al., 2023, "Towards monosemanticity", appendix).
    """

    def __init__(self, sae: Autoencoder, optim: OptimSettings, workspace: Workspace, *, free_norms: bool) -> None:
        self.weights = {name: parameter.detach() for name, parameter in sae.named_parameters()}
        self.moments = {name: Moments.zeros_like(weight) for name, weight in self.weights.items()}
        self._optim, self._workspace, self._unit, self._exchange = optim, workspace, not free_norms, sae.exchange
        self._sums: _Sums | None = None
        self._arriving: _Arriving | None = None

    def apply(self, kernels: Kernels, gradients: Gradients, adam: AdamSettings) -> float | None:
        """One step on the gradients of a whole batch; returns their norm where they are clipped."""
        plain = gradients.dec_norms is None and gradients.enc_outer is None and self._exchange.data.ranks == 1
        if self._optim.clip is not None or not plain:
            self.add(kernels, gradients)
            return self.apply_sums(kernels, adam)
        w_dec, w_enc = self.weights["W_dec"], self.weights["W_enc"]
        g, moments, how = gradients, self.moments["W_dec"], {"project": self._unit, "unit_norm": self._unit}
        vectors = self._summed(g.vectors)
        if g.dec_gradient is None:
            kernels.update_from_codes(
                w_dec, g.values, g.values_by_latent, g.d_output, g.dec_extra, moments, adam, **how
            )
        else:
            kernels.update_rows(w_dec, _with(g.dec_gradient, g.dec_extra), moments, adam, **how)
        kernels.update_from_codes(w_enc, g.d_pre, g.inputs_by_latent(), g.z, g.enc_extra, self.moments["W_enc"], adam)
        self._update_vectors(kernels, {name: vector() for name, vector in vectors.items()}, adam)
        return None

    def add(self, kernels: Kernels, gradients: Gradients, *, last: bool = True) -> None:
        """Add the gradients of a part of a batch to those that are kept; with the last one data ranks add up theirs."""
        g, first = gradients, self._sums is None
        if g.dec_gradient is None:
            w_dec = self._gradient(kernels, "W_dec", g.values, g.values_by_latent, g.d_output, g.dec_extra, first)
        else:
            w_dec = self._sum("W_dec")
            w_dec = (w_dec.copy_ if first else w_dec.add_)(_with(g.dec_gradient, g.dec_extra))
        if g.dec_norms is not None:
            weight = self.weights["W_dec"]
            w_dec.addcmul_(weight, (g.dec_norms / weight.norm(dim=1).clamp_min(1e-12))[:, None])
        arriving = self._exchange.add_data(w_dec) if last else None  # while the encoder's is worked out
        w_enc = self._gradient(kernels, "W_enc", g.d_pre, g.inputs_by_latent(), g.z, g.enc_extra, first)
        if g.enc_outer is not None:
            w_enc.addr_(*g.enc_outer)
        kept = self._sums
        vectors = g.vectors if kept is None else {name: kept.vectors[name] + g.vectors[name] for name in g.vectors}
        self._sums = _Sums(w_dec, w_enc, vectors)
        if arriving is not None:
            self._arriving = _Arriving(arriving, self._exchange.add_data(w_enc), self._summed(vectors))

    def drop(self) -> None:
        """Forget the gradients that are kept."""
        self._sums = None

    def apply_sums(self, kernels: Kernels, adam: AdamSettings) -> float | None:
        """One step on the gradients that are kept; returns their norm where they are clipped."""
        assert self._arriving is not None, "no gradients were added"
        arriving, self._arriving, self._sums = self._arriving, None, None
        w_dec, w_enc = self.weights["W_dec"], self.weights["W_enc"]
        g_dec = arriving.w_dec()
        if self._unit:
            kernels.project_rows(g_dec, w_dec)
        g_enc, vectors = arriving.w_enc(), {name: vector() for name, vector in arriving.vectors.items()}
        norm = None
        if self._optim.clip is not None:
            norm = _clip({"W_dec": g_dec, "W_enc": g_enc, **vectors}, self._optim.clip, self._exchange)
        kernels.update_rows(w_dec, g_dec, self.moments["W_dec"], adam, unit_norm=self._unit)
        kernels.update_rows(w_enc, g_enc, self.moments["W_enc"], adam)
        self._update_vectors(kernels, vectors, adam)
        return norm

    def _gradient(
        self,
        kernels: Kernels,
        name: str,
        values: Tensor,
        by_latent: ByLatent,
        rows: Tensor,
        extra: DenseRows | None,
        first: bool,
    ) -> Tensor:
        total = self._sum(name)
        if first:
            return kernels.latent_gradient(values, by_latent, rows, extra, total)
        part = self._workspace.get("update.part", tuple(total.shape), total.dtype, total.device)
        return total.add_(kernels.latent_gradient(values, by_latent, rows, extra, part))

    def _sum(self, name: str) -> Tensor:
        """The memory in which a parameter's gradients add up."""
        weight = self.weights[name]
        return self._workspace.get(f"update.{name}", tuple(weight.shape), weight.dtype, weight.device)

    def _summed(self, vectors: dict[str, Tensor]) -> dict[str, Pending]:
        """Over the data ranks; those that are not of single latents over the latent ranks too."""
        exchange = self._exchange
        return {
            name: (exchange.add_data if name in BY_LATENT else exchange.add_all)(vector)
            for name, vector in vectors.items()
        }

    def _update_vectors(self, kernels: Kernels, vectors: dict[str, Tensor], adam: AdamSettings) -> None:
        rates = {"log_threshold": self._optim.threshold_rate, "b_enc": self._optim.bias_rate}
        for name, gradient in vectors.items():
            own = replace(adam, lr=adam.lr * rates.get(name, 1.0))
            kernels.update_rows(self.weights[name], gradient, self.moments[name], own)


def _with(gradient: Tensor, extra: DenseRows | None) -> Tensor:
    return gradient if extra is None else gradient.index_add_(0, extra.latents, extra.rows)


def warmed(decay: float, step: int) -> float:
    """The decay of a running average at a step, counted from 1: at first it is at most (1 + t) / (10 + t)."""
    return min(decay, (1 + step) / (10 + step))


class Average:
    """An exponential moving average of weights (Gao et al., 2024, appendix A.5).

    The first steps count for less, so that the start is forgotten.
    """

    def __init__(self, weights: dict[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = {name: weight.clone() for name, weight in weights.items()}

    def follow(self, weights: dict[str, Tensor], step: int) -> None:
        """Move towards `weights` after a step, counted from 1."""
        decay = warmed(self.decay, step)
        for name, average in self.weights.items():
            average.lerp_(weights[name], 1 - decay)


def _clip(gradients: dict[str, Tensor], limit: float, exchange: Exchange) -> float:
    """Shrink all gradients together to a norm of at most `limit`, in place; returns the norm they had."""
    own = [gradient for name, gradient in gradients.items() if name in BY_LATENT or exchange.first]
    squares = sum(float(torch.linalg.vector_norm(gradient)) ** 2 for gradient in own)
    norm = math.sqrt(exchange.total([squares if exchange.data.rank == 0 else 0.0])[0])
    if norm > limit:
        for gradient in gradients.values():
            gradient.mul_(limit / norm)
    return norm
