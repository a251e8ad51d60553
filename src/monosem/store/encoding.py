"""How activations lie on disk: as floats, or as int8 around a centre with one scale for every 64 values of a row.

The centre comes off first: a few dimensions with a large mean would make every scale of their group large. The scale is
a group's largest distance from the centre over 127, so that a vector of huge norm coarsens nobody but itself. Added FVU
on the embedded model: 8.9e-5 with bf16 scales, 8.8e-5 with fp16 ones, which would end at 65,504; 4.6e-4 without a
centre. Knows nothing of files.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

GROUP = 64  # consecutive values of a row that share a scale
LARGEST = 127
SCALE_DTYPE = torch.bfloat16
SCALES, CENTRE = "scales", "centre"  # tensors of an int8 shard, beside those of every shard
CENTRE_NORM_RATIO = 10.0  # attention sinks lie beyond this multiple of the median norm


class Stored(NamedTuple):
    """Activations as they lie on disk."""

    activations: Tensor
    """`[rows, d]`, int8 or a float format."""
    scales: Tensor
    """`[rows, ceil(d / 64)]` bf16 for int8, `[rows, 0]` for floats."""


class Format(NamedTuple):
    """A number format of a store."""

    dtype: torch.dtype
    """int8 or a float format."""
    centre: Tensor
    """`[d]` float32, what int8 values are distances from. Floats are stored as they are."""

    @property
    def d(self) -> int:
        return len(self.centre)

    def empty(self, rows: int, device: torch.device | str = "cpu") -> Stored:
        """Room for activations."""
        scales = torch.empty((rows, scales_of(self.dtype, self.d)), dtype=SCALE_DTYPE, device=device)
        return Stored(torch.empty((rows, self.d), dtype=self.dtype, device=device), scales)

    def encode(self, x: Tensor) -> Stored:
        """Activations `x [rows, d]` as they are stored; on the device of `x`."""
        if self.dtype != torch.int8:
            return Stored(x.to(self.dtype), x.new_empty((len(x), 0), dtype=SCALE_DTYPE))
        distance = x.float() - self.centre.to(x.device)
        groups = functional.pad(distance, (0, -self.d % GROUP)).unflatten(1, (-1, GROUP))
        tiny = torch.finfo(SCALE_DTYPE).tiny
        scales = (groups.abs().amax(dim=2) / LARGEST).clamp_(min=tiny).to(SCALE_DTYPE)
        # a scale that was rounded down must not make the largest value wrap around
        values = (groups / scales.float().unsqueeze(2)).round_().clamp_(-LARGEST, LARGEST)
        return Stored(values.to(torch.int8).flatten(1)[:, : self.d].contiguous(), scales)

    def decode(self, stored: Stored) -> Tensor:
        """`[rows, d]`: floats as stored, int8 as float32."""
        if self.dtype != torch.int8:
            return stored.activations
        out = torch.empty(stored.activations.shape, dtype=torch.float32, device=stored.activations.device)
        decode_int8(stored, self.centre.to(out.device), out)
        return out


def decode_int8(stored: Stored, centre: Tensor, out: Tensor) -> None:
    """Fill `out [rows, d]` float32; a few hundred rows at once stay in the processor's cache."""
    whole = out.shape[1] // GROUP
    out.copy_(stored.activations)
    scales = stored.scales.float()
    out[:, : whole * GROUP].unflatten(1, (whole, GROUP)).mul_(scales[:, :whole, None])
    out[:, whole * GROUP :].mul_(scales[:, whole:])
    out.add_(centre)


def scales_of(dtype: torch.dtype, d: int) -> int:
    """Scales of a row."""
    return math.ceil(d / GROUP) if dtype == torch.int8 else 0


def row_bytes(dtype: torch.dtype, d: int) -> int:
    """Bytes of one activation on disk, without where it comes from."""
    return d * dtype.itemsize + scales_of(dtype, d) * SCALE_DTYPE.itemsize


def centre_of(x: Tensor, norms: Tensor) -> Tensor:
    """`[d]` float32, the mean of activations `x [rows, d]` whose norms are finite and no sinks."""
    finite = norms.isfinite()
    usual = finite & (norms <= CENTRE_NORM_RATIO * norms[finite].median())
    return x[usual].double().mean(dim=0).float()
