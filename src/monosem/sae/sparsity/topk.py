"""Sparsities with the same number of active latents in every vector: TopK and AbsTopK."""

from torch import Tensor

from monosem.kernels import Kernels, Pattern, Workspace
from monosem.sae.sparsity.protocol import CodeGradients, Encoder, Selection
from monosem.sae.sparsity.rectified import Rectified


class TopK(Rectified):
    """The k largest pre-activations of every vector, after ReLU: a negative winner's value is zero.

    Gao et al. (2024), "Scaling and evaluating sparse autoencoders", section 2.3.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def select(self, kernels: Kernels, z: Tensor, encoder: Encoder, workspace: Workspace, *, exact: bool) -> Selection:
        indices = kernels.select_topk(
            z, encoder.weight, encoder.bias, self.k, workspace, exact=exact, absolute=self.signed
        )
        pattern = Pattern.fixed(indices, len(encoder.weight))
        return Selection(pattern, kernels.values_at(z, encoder.weight, pattern, encoder.bias))


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
