"""Which latents of a vector are active, and with which values.

A sparsity selects a pattern from the encoder's product (without ever holding all of it), turns pre-activations into
code values, and says where gradients pass. TopK is the reference's; others fit the same protocol.
"""

from typing import Protocol

import torch
from torch import Tensor

from monosem.errors import SaeError
from monosem.kernels import Kernels, Pattern, Workspace


class Sparsity(Protocol):
    """What the autoencoder and the training step ask of a sparsity."""

    def select(
        self, kernels: Kernels, z: Tensor, w_enc: Tensor, b_enc: Tensor, workspace: Workspace, *, exact: bool
    ) -> Pattern:
        """The active latents of `z [B, d]`, normalised and centred; `exact` compares in float32."""
        ...

    def activate(self, pre: Tensor) -> Tensor:
        """Code values [nnz] of the selected pre-activations [nnz]."""
        ...

    def gradient(self, values: Tensor, d_values: Tensor) -> Tensor:
        """Gradient of the selected pre-activations [nnz], given the code values and their gradient."""
        ...


class TopK:
    """The k largest pre-activations of every vector, after ReLU: a negative winner's value is zero.

    Gao et al. (2024), "Scaling and evaluating sparse autoencoders", section 2.3.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def select(
        self, kernels: Kernels, z: Tensor, w_enc: Tensor, b_enc: Tensor, workspace: Workspace, *, exact: bool
    ) -> Pattern:
        indices = kernels.select_topk(z, w_enc, b_enc, self.k, workspace, exact=exact)
        return Pattern.fixed(indices, len(w_enc))

    def activate(self, pre: Tensor) -> Tensor:
        return pre.relu()

    def gradient(self, values: Tensor, d_values: Tensor) -> Tensor:
        return torch.where(values > 0, d_values, 0)


def make_sparsity(name: str, k: int) -> Sparsity:
    """The sparsity that a configuration names.

    Raises:
        SaeError: it names none that is known.
    """
    if name != "topk":
        raise SaeError(f"sparsity {name!r} is not known; expected 'topk'")
    return TopK(k)
