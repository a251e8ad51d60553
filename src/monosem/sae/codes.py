"""The sparse codes of a batch as callers see them: one row a vector, strongest first, padded where L0 varies."""

from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.kernels import Pattern


@dataclass(frozen=True)
class Codes:
    """The sparse codes of B activations, strongest first; k is the most that any of them has."""

    values: Tensor
    """[B, k] float32; below 0 only with `abstopk`. A latent with value 0 is not active."""
    indices: Tensor
    """[B, k] int64, latents; of no meaning where the value is 0."""
    n: int
    """Number of latents that there are."""
    mean: Tensor | None = None
    """[B, 1] each vector's mean, taken off by `layer` normalisation."""
    std: Tensor | None = None
    """[B, 1] each vector's std + 1e-6, divided by in `layer` normalisation."""

    def __len__(self) -> int:
        return len(self.values)

    def l0(self) -> float:
        """Mean number of active latents in an activation."""
        return float((self.values != 0).sum()) / max(1, len(self))

    def dense(self) -> Tensor:
        """[B, n] float32. For small use: it is n / k times the size."""
        return self.values.new_zeros(len(self), self.n).scatter_add_(1, self.indices, self.values)


def padded(pattern: Pattern, values: Tensor, mean: Tensor | None = None, std: Tensor | None = None) -> Codes:
    """Codes of a pattern's `values [nnz]`: by magnitude, equal ones by index, whatever order the kernel left."""
    lengths = pattern.offsets.diff()
    width = int(lengths.max()) if pattern.rows else 0
    if len(values) == pattern.rows * width:
        shaped, indices = values.view(pattern.rows, width), pattern.indices.view(pattern.rows, width)
    else:
        row = pattern.row_of_entry()
        place = torch.arange(len(values), device=values.device) - pattern.offsets[row] + row * width
        shaped = values.new_zeros(pattern.rows, width)
        indices = pattern.indices.new_zeros(pattern.rows, width)
        shaped.view(-1)[place] = values
        indices.view(-1)[place] = pattern.indices
    indices, by_index = indices.sort(dim=1)
    shaped = shaped.gather(1, by_index)
    by_value = shaped.abs().sort(dim=1, descending=True, stable=True).indices
    return Codes(shaped.gather(1, by_value), indices.gather(1, by_value), pattern.n, mean, std)
