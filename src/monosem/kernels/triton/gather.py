"""Sparse products, one vector at a time: what codes decode to, and exact values of chosen entries.

Both gather rows of a weight. A gathered row is thousands of bytes and its index eight, so indices stay int64 and every
row's place is a 64-bit product: there is no size that this breaks at.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from monosem.kernels.codes import Pattern
from monosem.kernels.triton.launch import jit, on_device, warps
from monosem.kernels.triton.plan import column_tile

AT_ONCE = 8
"""Rows that a program has in flight."""
ENTRIES = 32
PROGRAMS = 4096
"""Enough to fill a device; where there are fewer vectors, several programs share one's entries."""


@jit
def decode_kernel(values, indices, offsets, weight, out, d, stride, AT_ONCE: tl.constexpr, COLUMNS: tl.constexpr):
    """Some columns of what one vector's codes decode to."""
    line = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, last = tl.load(offsets + line), tl.load(offsets + line + 1)
    total = tl.zeros((COLUMNS,), tl.float32)
    for start in range(first, last, AT_ONCE):
        entry = start + tl.arange(0, AT_ONCE)
        value = tl.load(values + entry, entry < last, 0.0)
        latent = tl.load(indices + entry, entry < last, 0)
        there = (entry < last)[:, None] & (column < d)[None, :]
        row = tl.load(weight + latent[:, None] * stride + column[None, :], there, 0.0)
        total += tl.sum(value[:, None] * row.to(tl.float32), axis=0)
    tl.store(out + line * d + column, total, column < d)


@jit
def values_kernel(
    rows, weight, indices, offsets, bias, out, d, row_stride, stride,
    BIAS: tl.constexpr, AT_ONCE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Products of one vector with the rows of its latents, or of every so-manieth few of them."""
    line = tl.program_id(0).to(tl.int64)
    first, last = tl.load(offsets + line), tl.load(offsets + line + 1)
    for start in range(first + tl.program_id(1) * AT_ONCE, last, tl.num_programs(1) * AT_ONCE):
        entry = start + tl.arange(0, AT_ONCE)
        latent = tl.load(indices + entry, entry < last, 0)
        products = tl.zeros((AT_ONCE, COLUMNS), tl.float32)
        for left in range(0, d, COLUMNS):
            column = left + tl.arange(0, COLUMNS)
            there = (entry < last)[:, None] & (column < d)[None, :]
            own = tl.load(rows + line * row_stride + column, column < d, 0.0)
            row = tl.load(weight + latent[:, None] * stride + column[None, :], there, 0.0)
            products += own[None, :] * row.to(tl.float32)
        value = tl.sum(products, axis=1)
        if BIAS:
            value += tl.load(bias + latent, entry < last, 0.0)
        tl.store(out + entry, value, entry < last)


def decode(values: Tensor, pattern: Pattern, weight: Tensor) -> Tensor:
    """See `reference.decode`; `weight` may be of any float type, sums are float32."""
    d = weight.shape[1]
    out = torch.empty(pattern.rows, d, dtype=torch.float32, device=values.device)
    columns = column_tile(d)
    with on_device(values):
        decode_kernel[(pattern.rows, triton.cdiv(d, columns))](
            values.contiguous(),
            pattern.indices,
            pattern.offsets,
            weight,
            out,
            d,
            weight.stride(0),
            AT_ONCE=AT_ONCE,
            COLUMNS=columns,
            num_warps=warps(AT_ONCE * columns // 4),
        )
    return out


def values_at(rows: Tensor, weight: Tensor, pattern: Pattern, bias: Tensor | None = None) -> Tensor:
    """See `reference.values_at`."""
    entries, d = len(pattern.indices), weight.shape[1]
    out = torch.empty(entries, dtype=torch.float32, device=rows.device)
    columns = column_tile(d)
    shared = min(entries // max(1, pattern.rows * ENTRIES), PROGRAMS // max(1, pattern.rows))
    with on_device(rows):
        values_kernel[(pattern.rows, max(1, shared))](
            rows,
            weight,
            pattern.indices,
            pattern.offsets,
            bias,
            out,
            d,
            rows.stride(0),
            weight.stride(0),
            BIAS=bias is not None,
            AT_ONCE=AT_ONCE,
            COLUMNS=columns,
            num_warps=warps(AT_ONCE * columns // 4),
        )
    return out
