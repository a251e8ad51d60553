"""What most sparsities share: values are pre-activations after ReLU, and training computes with the active ones."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from monosem.kernels import Kernels, Workspace
from monosem.sae.sparsity.protocol import CodeGradients, Encoder, Selection


class Rectified(ABC):
    """A sparsity, once it is said which latents are active."""

    signed = False

    @abstractmethod
    def select(self, kernels: Kernels, z: Tensor, encoder: Encoder, workspace: Workspace, *, exact: bool) -> Selection:
        """See `Sparsity.select`."""

    def candidates(
        self, kernels: Kernels, z: Tensor, encoder: Encoder, workspace: Workspace, *, exact: bool
    ) -> Selection:
        return self.select(kernels, z, encoder, workspace, exact=exact)

    def activate(self, selection: Selection, encoder: Encoder) -> Tensor:  # noqa: ARG002
        return selection.pre.relu()

    def backward(
        self,
        selection: Selection,  # noqa: ARG002
        encoder: Encoder,  # noqa: ARG002
        values: Tensor,
        d_values: Tensor,
        d_active: float,  # noqa: ARG002
    ) -> CodeGradients:
        return CodeGradients(torch.where(values > 0, d_values, 0))
