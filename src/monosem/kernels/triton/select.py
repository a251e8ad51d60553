"""Selection: which latents a vector may use, from a product of which only a chunk exists at a time.

Chunk after chunk: product with summaries -> the k largest, or all above zero. Only places leave this module; values are
recomputed exactly. Where no program could hold what it must look at, `torch.topk` does: the same result, slower.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from monosem.kernels.codes import Pattern, Workspace
from monosem.kernels.triton import plan
from monosem.kernels.triton.largest import largest
from monosem.kernels.triton.launch import jit, on_device
from monosem.kernels.triton.product import fast_bf16, low_precision, own_product, product, summarise

ABOVE_TILE = 64
ABOVE_TILES = 16


class _Chunk(NamedTuple):
    first: int
    """Its first row."""
    pre: Tensor
    """[chunk, n]"""
    summary: Tensor
    """[chunk, tiles]"""


@jit
def above_kernel(pre, counts, ends, found, n, tiles, stride, TILES: tl.constexpr, TILE: tl.constexpr):
    """Columns above zero of some tiles of one row; tiles that have none are not read."""
    line = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1) * TILES + tl.arange(0, TILES)
    count = tl.load(counts + line * tiles + tile, tile < tiles, 0)
    if tl.sum(count, axis=0) > 0:  # pyright: ignore[reportOperatorIssue]
        column = tile[:, None] * TILE + tl.arange(0, TILE)[None, :]
        values = tl.load(pre + line * stride + column, (count > 0)[:, None] & (column < n), 0.0).to(tl.float32)
        above = values > 0
        start = tl.load(ends + line * tiles + tile, tile < tiles, 0) - count
        place = start[:, None] + tl.cumsum(above.to(tl.int32), 1) - 1
        tl.store(found + place, column.to(tl.int64), above)


def select_topk(
    z: Tensor, w_enc: Tensor, b_enc: Tensor, k: int, workspace: Workspace, *, exact: bool, absolute: bool = False
) -> Tensor:
    """See `reference.select_topk`; exact up to ties."""
    chosen = torch.empty(len(z), k, dtype=torch.int64, device=z.device)
    cut = plan.selection(len(w_enc), k) if k else None
    for first, pre, maxima in _chunks(z, w_enc, b_enc, workspace, cut and cut.tile, exact, absolute):
        part = chosen[first : first + len(pre)]
        if cut is None:
            part.copy_(torch.topk(pre, k, dim=1, sorted=False).indices)
        else:
            tiles = workspace.get("select.tiles", (len(pre), k), torch.int32, z.device)
            largest(pre, maxima, k, cut, part, tiles)
    return chosen


def select_above(z: Tensor, w_enc: Tensor, bias: Tensor, workspace: Workspace, *, exact: bool) -> Pattern:
    """See `reference.select_above`."""
    rows, n = len(z), len(w_enc)
    found, counts = [z.new_empty(0, dtype=torch.int64)], [z.new_zeros(1, dtype=torch.int64)]
    for _, pre, hits in _chunks(z, w_enc, bias, workspace, ABOVE_TILE, exact, absolute=False, count=True):
        tiles = hits.shape[1]
        ends = hits.view(-1).cumsum(0)
        places = torch.empty(int(ends[-1]), dtype=torch.int64, device=z.device)
        with on_device(z):
            above_kernel[(len(pre), triton.cdiv(tiles, ABOVE_TILES))](
                pre, hits, ends, places, n, tiles, pre.stride(0), TILES=ABOVE_TILES, TILE=ABOVE_TILE
            )
        found.append(places)
        counts.append(hits.sum(1))
    offsets = torch.cat(counts).cumsum(0)
    assert len(offsets) == rows + 1
    return Pattern(torch.cat(found), offsets, n)


def _chunks(
    z: Tensor, w_enc: Tensor, bias: Tensor, workspace: Workspace, tile: int | None, exact: bool, absolute: bool,
    count: bool = False,
) -> Iterator[_Chunk]:  # fmt: skip
    """Pre-activations and summaries of one chunk of rows after another, all in the same buffers."""
    (rows, d), n, device = z.shape, len(w_enc), z.device
    low = not exact and fast_bf16(device)
    dtype = torch.bfloat16 if low else torch.float32
    if low:
        z = low_precision(z, workspace.get("select.z", (rows, plan.even(d)), dtype, device))
        w_enc = low_precision(w_enc, workspace.get("select.weight", (n, plan.even(d)), dtype, device))
    chunk = plan.chunk_rows(rows, n, dtype.itemsize)
    buffer = workspace.get("select.pre", (chunk, plan.even(n)), dtype, device)
    tiles = -(-n // (tile or plan.TILES[-1]))
    kind = torch.int32 if count else dtype
    for first in range(0, rows, chunk):
        part = z[first : first + chunk]
        pre = buffer[: len(part), :n]
        summary = workspace.get(f"select.{kind}", (len(part), tiles), kind, device)
        if low and own_product(device):
            product(part, w_enc, bias, pre, summary, tile or plan.TILES[-1], absolute=absolute)
        else:
            torch.addmm(bias.to(dtype), part, w_enc.T, out=pre)
            if absolute:
                pre.abs_()
            summarise(pre, summary, tile or plan.TILES[-1])
        yield _Chunk(first, pre, summary)
