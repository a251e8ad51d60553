"""What the kernels pass around: the pattern of active latents, by vector and by latent, and the reused buffers.

A `Pattern` says which latents each vector uses; `ByLatent` is the same turned round, built by one sort and shared by
every gradient. Neither holds values, so one pattern serves the codes and their gradients.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """Active latents of B vectors: entries `offsets[b]` to `offsets[b + 1]` of `indices` belong to vector b."""

    indices: Tensor
    """[nnz] int64, latents; no latent twice in one vector."""
    offsets: Tensor
    """[B + 1] int64."""
    n: int
    """Number of latents that there are."""

    @classmethod
    def fixed(cls, indices: Tensor, n: int) -> "Pattern":
        """The pattern of `indices [B, k]`: k latents for every vector."""
        rows, k = indices.shape
        offsets = torch.arange(0, rows * k + 1, k, device=indices.device) if k else indices.new_zeros(rows + 1)
        return cls(indices.reshape(-1), offsets, n)

    @property
    def rows(self) -> int:
        """B."""
        return len(self.offsets) - 1

    def row_of_entry(self) -> Tensor:
        """[nnz] int64: the vector that each entry belongs to."""
        rows = torch.arange(self.rows, device=self.offsets.device)
        return torch.repeat_interleave(rows, self.offsets.diff(), output_size=len(self.indices))

    def kept(self, mask: Tensor) -> "Pattern":
        """The entries where `mask [nnz]` holds."""
        before = torch.cat([self.offsets.new_zeros(1), mask.cumsum(0)])
        return Pattern(self.indices[mask], before[self.offsets], self.n)


@dataclass(frozen=True)
class ByLatent:
    """A pattern sorted by latent: entries `offsets[i]` to `offsets[i + 1]` are the uses of latent i, in row order."""

    rows: Tensor
    """[nnz] int32, the vector of each entry."""
    offsets: Tensor
    """[n + 1] int32."""
    order: Tensor
    """[nnz] int64: `values[order]` brings the pattern's values into this order."""


@dataclass(frozen=True)
class DenseRows:
    """Gradient rows of a few latents, to be added to a sparse gradient."""

    latents: Tensor
    """[m] int64, ascending."""
    rows: Tensor
    """[m, d] float32."""


class Backward(NamedTuple):
    """What comes back from a decoder to its codes."""

    values: Tensor
    """[nnz] gradient of the code values."""
    weight: Tensor | None
    """[n, d] the decoder's own gradient, where a kernel found it on the way; in the workspace's memory."""


def sums_at(latents: Tensor, values: Tensor, n: int) -> Tensor:
    """[n]: for every latent the sum of the `values` that stand beside it, in a fixed order on every device."""
    sums = values.new_zeros(n)
    if values.is_cuda:  # where `index_add_` leaves the order to chance, and this one sorts
        return sums.index_put_((latents,), values, accumulate=True)
    return sums.index_add_(0, latents, values)


@dataclass
class Workspace:
    """Buffers that live from step to step: fresh pages cost as much as the kernels that fill them.

    A buffer's content is only valid until the next request of the same name.
    """

    buffers: dict[str, Tensor] = field(default_factory=dict)

    def get(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """An uninitialised contiguous tensor of `shape` on the memory kept under `name`, grown when it is too small."""
        size = 1
        for extent in shape:
            size *= extent
        kept = self.buffers.get(name)
        if kept is None or kept.numel() < size or kept.dtype != dtype or kept.device != device:
            kept = self.buffers[name] = torch.empty(size, dtype=dtype, device=device)
        return kept[:size].view(shape)
