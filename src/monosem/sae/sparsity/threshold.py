"""Sparsities whose L0 varies from vector to vector: a latent is active where its pre-activation exceeds a threshold.

ReLU has none to learn, BatchTopK one for all latents that follows the batches, JumpReLU one for each that is learned.
"""

import torch
from torch import Tensor

from monosem.kernels import Kernels, Workspace, sums_at
from monosem.sae.exchange import ALONE, Exchange
from monosem.sae.sparsity.protocol import CodeGradients, Encoder, Selection
from monosem.sae.sparsity.rectified import Rectified

ROUNDING = 0.03
"""Selected this far below a threshold in low precision, so that rounding loses nothing that is above it."""
EXACT_ROUNDING = 1e-4
SAMPLE_SHARE = 32
SAMPLE_ROWS = 64
SPARE = 1.25
"""BatchTopK collects about this many times what it keeps."""


class ReLU(Rectified):
    """Every positive pre-activation; a penalty on the values keeps them few.

    Bricken et al. (2023), "Towards monosemanticity".
    """

    def select(self, kernels: Kernels, z: Tensor, encoder: Encoder, workspace: Workspace, *, exact: bool) -> Selection:
        threshold = torch.zeros_like(encoder.bias) if encoder.threshold is None else encoder.threshold
        margin = EXACT_ROUNDING if exact else ROUNDING
        found = _above(kernels, z, encoder, threshold - margin, workspace, exact=exact)
        return _kept(found, found.pre > _at(threshold, found))


class BatchTopK(ReLU):
    """In training the k * B largest positive pre-activations of a batch; afterwards all above a learned threshold.

    Bussmann et al. (2024), "BatchTopK sparse autoencoders" (arXiv 2412.06410), section 3. The threshold is a running
    average of the smallest value that a batch kept.
    """

    def __init__(self, k: int, exchange: Exchange = ALONE) -> None:
        self.k, self._exchange = k, exchange

    def candidates(
        self, kernels: Kernels, z: Tensor, encoder: Encoder, workspace: Workspace, *, exact: bool
    ) -> Selection:
        """The choice is made in float32 anyway: what `exact` may loosen is what it is made from."""
        wanted = self.k * self._exchange.whole(len(z))
        guess = self._guess(z, encoder)
        found = _above(kernels, z, encoder, encoder.bias.new_tensor(guess), workspace, exact=exact)
        if guess > 0 and self._total((found.pre > guess + ROUNDING).sum()) < wanted:
            found = _above(kernels, z, encoder, encoder.bias.new_zeros(()), workspace, exact=exact)
        if self._total(len(found.pre)) <= wanted:
            return _kept(found, found.pre > 0)
        border = self._exchange.kth_largest(found.pre, wanted)
        mask = found.pre > border
        ties = (found.pre == border).nonzero().squeeze(1)
        missing = wanted - self._total(mask.sum())
        mask[ties[: self._exchange.earliest(self._places(found, ties), missing)]] = True
        return _kept(found, mask & (found.pre > 0))

    def _total(self, count: Tensor | int) -> int:
        return int(self._exchange.total([int(count)])[0])

    def _places(self, found: Selection, entries: Tensor) -> Tensor:
        """Where entries stand in the whole batch, by vector, then by latent."""
        pattern, exchange = found.pattern, self._exchange
        if exchange.alone:
            return entries
        row = torch.searchsorted(pattern.offsets, entries, right=True) - 1 + exchange.data.rank * pattern.rows
        latent = pattern.indices[entries] + exchange.latent.rank * pattern.n
        return row * (pattern.n * exchange.latent.ranks) + latent

    def _guess(self, z: Tensor, encoder: Encoder) -> float:
        """A value that somewhat more than k entries a vector exceed, by an even sample of the batch."""
        rows = min(len(z), max(SAMPLE_ROWS, len(z) // SAMPLE_SHARE))
        sample = z[torch.arange(rows, device=z.device) * len(z) // rows]
        return max(0.0, exceeded(sample, encoder, SPARE * self.k, self._exchange) - ROUNDING)


class JumpReLU(ReLU):
    """Pre-activations above a threshold of their own latent, which is learned through a straight-through estimator.

    Rajamanoharan et al. (2024), "Jumping ahead" (arXiv 2407.14435), sections 3 and 4: the step is given the gradient of
    a rectangle around the threshold. It passes to the pre-activation too, as in Anthropic's update of January 2025, and
    the rectangle's width is `bandwidth` times the threshold, so that it means the same at every scale of activations.
    """

    def __init__(self, bandwidth: float) -> None:
        self.bandwidth = bandwidth

    def candidates(
        self, kernels: Kernels, z: Tensor, encoder: Encoder, workspace: Workspace, *, exact: bool
    ) -> Selection:
        assert encoder.threshold is not None
        border = encoder.threshold - (encoder.threshold * (self.bandwidth / 2)).clamp_min(ROUNDING)
        return _above(kernels, z, encoder, border, workspace, exact=exact)

    def activate(self, selection: Selection, encoder: Encoder) -> Tensor:
        assert encoder.threshold is not None
        return torch.where(selection.pre > _at(encoder.threshold, selection), selection.pre, 0)

    def backward(
        self, selection: Selection, encoder: Encoder, values: Tensor, d_values: Tensor, d_active: float
    ) -> CodeGradients:
        assert encoder.threshold is not None
        threshold = _at(encoder.threshold, selection)
        width = threshold * self.bandwidth
        near = (selection.pre - threshold).abs() < width / 2
        # the value jumps from 0 to the threshold, its being active from 0 to 1
        jump = torch.where(near, (threshold * d_values + d_active) / width, 0)
        d_threshold = sums_at(selection.pattern.indices, -jump, len(encoder.threshold))
        return CodeGradients(torch.where(values > 0, d_values, 0) + jump, d_threshold)


def exceeded(z: Tensor, encoder: Encoder, l0: float, exchange: Exchange = ALONE) -> float:
    """The value that `l0` pre-activations of a vector of `z [B, d]` exceed, on average. Lays out [B, n].

    Every data rank brings vectors of its own, every latent rank the pre-activations of its latents.
    """
    pre = torch.addmm(encoder.bias, z, encoder.weight.T).flatten()
    rows, entries = exchange.total([len(z) if exchange.first else 0, len(pre)])
    return float(exchange.kth_largest(pre, min(int(entries), int(l0 * rows) + 1)))


def _above(
    kernels: Kernels, z: Tensor, encoder: Encoder, border: Tensor, workspace: Workspace, *, exact: bool
) -> Selection:
    """All entries above `border [n]` or `[]`, give or take the rounding of the selection."""
    pattern = kernels.select_above(z, encoder.weight, encoder.bias - border, workspace, exact=exact)
    return Selection(pattern, kernels.values_at(z, encoder.weight, pattern, encoder.bias))


def _at(threshold: Tensor, selection: Selection) -> Tensor:
    return threshold[selection.pattern.indices] if threshold.dim() else threshold


def _kept(selection: Selection, mask: Tensor) -> Selection:
    return Selection(selection.pattern.kept(mask), selection.pre[mask])
