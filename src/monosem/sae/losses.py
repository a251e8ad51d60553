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


def total_variance(z: Tensor, workspace: Workspace) -> float:
    """`sum |z - mean(z)|^2` over a batch `z [B, d]`: the squared error of predicting the batch's mean."""
    centred = torch.sub(z, z.mean(0), out=workspace.get("loss.centred", tuple(z.shape), z.dtype, z.device))
    return squared_sum(centred)


def squared_sum(rows: Tensor) -> float:
    """`sum |rows|^2`, summed over the rows in float64."""
    return float(torch.linalg.vector_norm(rows, dim=1).double().square().sum())


def auxk(
    z: Tensor,
    error: Tensor,
    weights: Weights,
    dead: Tensor,
    plan: AuxPlan,
    coefficient: float,
    variance: float,
    kernels: Kernels,
    workspace: Workspace,
    *,
    signed: bool = False,
) -> AuxGradients:
    """AuxK and its gradients; they reach encoder, bias and decoder of the dead rows.

    The target is the main residual `-error`, detached: no gradient passes to the live latents.

    Args:
        z: [B, d] normalised, centred inputs.
        error: [B, d_out], reconstruction minus target.
        weights: [n, d], [n], [n, d_out].
        dead: [n_dead] int64, ascending.
        plan: from `AuxK.plan`.
        coefficient: weight of the loss in the gradients.
        variance: the batch's total variance.
        workspace: its buffers hold the returned gradients until the next call.
        signed: code values may be negative: the largest magnitudes are taken, and no ReLU.
    """

    def buffer(name: str, *shape: int) -> Tensor:
        return workspace.get(f"aux.{name}", shape, z.dtype, z.device)

    m, d, d_out = len(dead), z.shape[1], error.shape[1]
    chosen = torch.arange(plan.rows, device=z.device) * len(z) // plan.rows
    inputs = torch.index_select(z, 0, chosen, out=buffer("inputs", plan.rows, d))
    difference = torch.index_select(error, 0, chosen, out=buffer("difference", plan.rows, d_out))
    encoder = torch.index_select(weights.w_enc, 0, dead, out=buffer("encoder", m, d))
    decoder = torch.index_select(weights.w_dec, 0, dead, out=buffer("decoder", m, d_out))

    codes = torch.addmm(weights.b_enc[dead], inputs, encoder.T, out=buffer("codes", plan.rows, m))
    if plan.k < m:
        kernels.keep_largest(codes, plan.k, signed=signed)
    elif not signed:
        codes.relu_()
    difference.addmm_(codes, decoder)  # e_hat - residual = e_hat + error
    loss = plan.scale * squared_sum(difference) / variance

    d_output = difference.mul_(2 * coefficient * plan.scale / variance)
    g_dec = torch.mm(codes.T, d_output, out=buffer("g_dec", m, d_out))
    d_codes = torch.mm(d_output, decoder.T, out=buffer("d_codes", plan.rows, m))
    d_codes.mul_(codes != 0)
    g_enc = torch.mm(d_codes.T, inputs, out=buffer("g_enc", m, d))
    return AuxGradients(loss, g_enc, d_codes.sum(0), g_dec)
