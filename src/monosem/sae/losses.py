"""The losses of training, forward and backward written out: normalised squared error and AuxK.

Both live in the SAE's normalised space and share one denominator, the total variance of the batch, so that the main
loss is the batch's fraction of variance unexplained. AuxK lets dead latents reconstruct what the live ones leave over,
as dense products over the dead rows alone.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.kernels import Kernels, Workspace
from monosem.sae.exchange import ALONE, Exchange, Pending

AUX_PRODUCTS = 5
"""Dense products of AuxK, forward and backward: pre-activations, reconstruction, and three gradients."""


@dataclass(frozen=True)
class AuxK:
    """Settings of the auxiliary loss of Gao et al. (2024), section 2.4 and appendix A.2."""

    k_aux: int
    """Dead latents that reconstruct the residual of one activation, at most; width / 2 is usual."""
    coefficient: float = 1 / 32
    """Weight beside the main loss."""
    gate: bool = False
    """True: run only once at least `k_aux` latents are dead, as the reference system did; some then stay dead."""
    budget: float = 0.15
    """Work at most this many times that of one encoder product of the batch; beyond it, take part of the batch."""

    def plan(self, n_dead: int, n: int, batch: int) -> "AuxPlan | None":
        """What to compute with `n_dead` of `n` latents dead, or None when there is nothing to."""
        if n_dead == 0 or self.coefficient == 0 or (self.gate and n_dead < self.k_aux):
            return None
        share = min(1.0, self.budget * n / (AUX_PRODUCTS * n_dead))
        rows = max(1, int(share * batch))
        return AuxPlan(min(self.k_aux, n_dead), min(n_dead / self.k_aux, 1.0) * batch / rows, rows)


class AuxPlan(NamedTuple):
    """The auxiliary loss of one batch."""

    k: int
    """Dead latents for each activation: fewer than set when fewer are dead."""
    scale: float
    """Factor on the summed squared error: min(n_dead / k_aux, 1), and batch / rows for the rows left out."""
    rows: int
    """Activations that take part, evenly spaced over the batch."""


class Weights(NamedTuple):
    """The parameters that AuxK trains, of all latents."""

    w_enc: Tensor
    b_enc: Tensor
    w_dec: Tensor


class AuxGradients(NamedTuple):
    """The auxiliary loss, without its coefficient, and the gradients of coefficient * loss."""

    loss: float
    """Scaled squared error over the total variance."""
    w_enc: Tensor
    """[n_dead, d]"""
    b_enc: Tensor
    """[n_dead]"""
    w_dec: Tensor
    """[n_dead, d_out]"""


def total_variance(z: Tensor, workspace: Workspace, exchange: Exchange = ALONE) -> float:
    """`sum |z - mean(z)|^2` over a batch `z [B, d]`: the squared error of predicting the batch's mean.

    Of several data ranks each has as many rows; the sum is over all of them.
    """
    mean = z.mean(0)
    if exchange.data.ranks > 1:
        mean = exchange.add_data(mean)() / exchange.data.ranks
    centred = torch.sub(z, mean, out=workspace.get("loss.centred", tuple(z.shape), z.dtype, z.device))
    variance = squared_sum(centred)
    return variance if exchange.data.ranks == 1 else exchange.total([variance if exchange.first else 0.0])[0]


def squared_sum(rows: Tensor) -> float:
    """`sum |rows|^2`, summed over the rows in float64."""
    return float(torch.linalg.vector_norm(rows, dim=1).double().square().sum())


class Revival:
    """AuxK of one batch and its gradients; they reach encoder, bias and decoder of the dead rows.

    The target is the main residual `-error`, detached: no gradient passes to the live latents. It comes in the three
    parts `__init__`, `decode` and `gradients`, so that the main reconstruction, and then the auxiliary one, may be on
    their way between processes meanwhile.

    Args:
        z: [B, d] normalised, centred inputs.
        weights: [n, d], [n], [n, d_out].
        dead: [n_dead] int64, ascending.
        plan: from `AuxK.plan`, of the dead latents and activations of all processes.
        workspace: its buffers hold the returned gradients until the next one.
        signed: code values may be negative: the largest magnitudes are taken, and no ReLU.
        most: the largest `n_dead` of a latent rank. None: this process is alone.
    """

    def __init__(
        self,
        z: Tensor,
        weights: Weights,
        dead: Tensor,
        plan: AuxPlan,
        kernels: Kernels,
        workspace: Workspace,
        *,
        signed: bool = False,
        exchange: Exchange = ALONE,
        most: int | None = None,
    ) -> None:
        self._plan, self._workspace, self._exchange = plan, workspace, exchange
        self._like, (m, d) = z, (len(dead), z.shape[1])
        self._chosen = chosen = exchange.evenly(plan.rows, len(z), z.device)
        self._inputs = torch.index_select(z, 0, chosen, out=self._buffer("inputs", len(chosen), d))
        encoder = torch.index_select(weights.w_enc, 0, dead, out=self._buffer("encoder", m, d))
        self._decoder = torch.index_select(
            weights.w_dec, 0, dead, out=self._buffer("decoder", m, weights.w_dec.shape[1])
        )
        codes = self._buffer("codes", len(chosen), m)
        self._codes = torch.addmm(weights.b_enc[dead], self._inputs, encoder.T, out=codes)
        if most is not None:
            self._keep_strongest(most, signed)
        elif plan.k < m:
            kernels.keep_largest(codes, plan.k, signed=signed)
        if not signed:
            codes.relu_()

    def decode(self, error: Tensor) -> None:
        """Begin to reconstruct what is left over; error: [B, d_out], reconstruction minus target, is read at once."""
        shape = (len(self._chosen), error.shape[1])
        difference = torch.index_select(error, 0, self._chosen, out=self._buffer("difference", *shape))
        # e_hat - residual = e_hat + error, which one of the processes brings in
        difference.addmm_(self._codes, self._decoder, beta=1 if self._exchange.first else 0)
        self._difference: Pending = self._exchange.add_up(difference)

    def gradients(self, coefficient: float, variance: float) -> AuxGradients:
        """The loss, and the gradients of `coefficient` times it; variance: the batch's total one."""
        difference, scale = self._difference(), self._plan.scale
        loss = scale * squared_sum(difference) / variance
        (rows, m), d = self._codes.shape, self._inputs.shape[1]
        d_output = difference.mul_(2 * coefficient * scale / variance)
        g_dec = torch.mm(self._codes.T, d_output, out=self._buffer("g_dec", m, d_output.shape[1]))
        d_codes = torch.mm(d_output, self._decoder.T, out=self._buffer("d_codes", rows, m))
        d_codes.mul_(self._codes != 0)
        g_enc = torch.mm(d_codes.T, self._inputs, out=self._buffer("g_enc", m, d))
        return AuxGradients(loss, g_enc, d_codes.sum(0), g_dec)

    def _keep_strongest(self, most: int, signed: bool) -> None:
        """Zero all codes but the k strongest of the latent ranks, of which the one with most dead has `most`."""
        codes, k = self._codes, self._plan.k
        strength, place = torch.topk(codes.abs() if signed else codes, min(k, codes.shape[1]), dim=1)
        counts = self._exchange.kept(strength, k, min(k, most))
        mask = torch.arange(strength.shape[1], device=codes.device) < counts[:, None]
        values = codes.gather(1, place) * mask
        codes.zero_().scatter_(1, place, values)

    def _buffer(self, name: str, *shape: int) -> Tensor:
        return self._workspace.get(f"aux.{name}", shape, self._like.dtype, self._like.device)
