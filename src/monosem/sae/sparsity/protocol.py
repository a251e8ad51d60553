"""What the autoencoder and its training ask of a sparsity."""

from typing import NamedTuple, Protocol

from torch import Tensor

from monosem.kernels import Kernels, Pattern, Workspace


class Encoder(NamedTuple):
    """The weights that make pre-activations `a = z @ weight.T + bias`, and what they are held against."""

    weight: Tensor
    """[n, d]"""
    bias: Tensor
    """[n]"""
    threshold: Tensor | None = None
    """[n] or []: only for sparsities that have thresholds."""


class Selection(NamedTuple):
    """Some entries of the pre-activations."""

    pattern: Pattern
    pre: Tensor
    """[nnz] float32, exact at every entry."""


class CodeGradients(NamedTuple):
    """Gradients that pass back through a sparsity."""

    pre: Tensor
    """[nnz]"""
    threshold: Tensor | None = None
    """[n] of the thresholds, where they are learned."""


class Sparsity(Protocol):
    """Which latents of a vector are active, with which values, and where gradients pass."""

    signed: bool
    """Whether code values may be negative."""

    def select(self, kernels: Kernels, z: Tensor, encoder: Encoder, workspace: Workspace, *, exact: bool) -> Selection:
        """The active latents of `z [B, d]`, normalised and centred; `exact` compares in float32."""
        ...

    def candidates(
        self, kernels: Kernels, z: Tensor, encoder: Encoder, workspace: Workspace, *, exact: bool
    ) -> Selection:
        """What a training step computes with: the active latents, and those that have a gradient without being so."""
        ...

    def activate(self, selection: Selection, encoder: Encoder) -> Tensor:
        """Code values [nnz] of the selected pre-activations; 0 where a candidate is not active."""
        ...

    def backward(
        self, selection: Selection, encoder: Encoder, values: Tensor, d_values: Tensor, d_active: float
    ) -> CodeGradients:
        """Gradients of what made `values [nnz]`.

        Args:
            d_values: [nnz] gradient of the code values.
            d_active: gradient of every entry's being active, which a penalty on L0 has.
        """
        ...
