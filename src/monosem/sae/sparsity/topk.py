"""Sparsities with the same number of active latents in every vector: TopK and AbsTopK.

Where latents are spread over processes, each finds the k strongest of its own; the k strongest of all are among them.
"""

import torch
from torch import Tensor

from monosem.kernels import Kernels, Pattern, Workspace
from monosem.sae.exchange import ALONE, Exchange
from monosem.sae.sparsity.protocol import CodeGradients, Encoder, Selection
from monosem.sae.sparsity.rectified import Rectified


class TopK(Rectified):
    """The k largest pre-activations of every vector, after ReLU: a negative winner's value is zero.

    Gao et al. (2024), "Scaling and evaluating sparse autoencoders", section 2.3.
    """

    def __init__(self, k: int, exchange: Exchange = ALONE) -> None:
        self.k, self._exchange = k, exchange

    def select(self, kernels: Kernels, z: Tensor, encoder: Encoder, workspace: Workspace, *, exact: bool) -> Selection:
        n = len(encoder.weight)
        k = min(self.k, n)
        indices = kernels.select_topk(z, encoder.weight, encoder.bias, k, workspace, exact=exact, absolute=self.signed)
        pattern = Pattern.fixed(indices, n)
        found = Selection(pattern, kernels.values_at(z, encoder.weight, pattern, encoder.bias))
        return found if self._exchange.latent.ranks == 1 else self._strongest(found, k)

    def _strongest(self, found: Selection, width: int) -> Selection:
        """Those of `found`, `width` for each vector, that are among the k strongest of all processes."""
        indices, by_index = found.pattern.indices.view(-1, width).sort(dim=1)
        pre = found.pre.view(-1, width).gather(1, by_index)
        strength = pre.abs() if self.signed else pre
        strength, order = strength.sort(dim=1, descending=True, stable=True)
        counts = self._exchange.kept(strength, self.k, width)
        mask = torch.arange(width, device=pre.device) < counts[:, None]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        pattern = Pattern(indices.gather(1, order)[mask], offsets, found.pattern.n)
        return Selection(pattern, pre.gather(1, order)[mask])


class AbsTopK(TopK):
    """The k pre-activations of largest magnitude, with their signs: a latent may point both ways.

    "AbsTopK: rethinking sparse autoencoders for bidirectional features" (arXiv 2510.00404), section 3.
    """

    signed = True

    def activate(self, selection: Selection, encoder: Encoder) -> Tensor:  # noqa: ARG002
        return selection.pre.clone()

    def backward(
        self,
        selection: Selection,  # noqa: ARG002
        encoder: Encoder,  # noqa: ARG002
        values: Tensor,  # noqa: ARG002
        d_values: Tensor,
        d_active: float,  # noqa: ARG002
    ) -> CodeGradients:
        return CodeGradients(d_values)
