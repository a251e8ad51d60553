"""The encoder's product, with a summary of every tile of its result made before the tile leaves the registers.

bfloat16 inputs, float32 sums. The summary is the tile's maximum (for the k largest) or how many of its values are above
zero (for thresholds). `summarise` makes the same of a product that came from elsewhere: in float32, or of a GPU whose
products this kernel is not cut for.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from monosem.kernels.triton.launch import jit, on_device, warps
from monosem.kernels.triton.plan import BLOCK_ROWS, power_of_two

GROUP = 8
"""Blocks of rows that run beside each other, so that what they read of the weight is still in the cache."""
LANES = 4096


class Blocks(NamedTuple):
    """How the product is cut."""

    rows: int
    columns: int
    inner: int
    stages: int
    warps: int


BLOCKS = Blocks(BLOCK_ROWS, 256, 64, 4, 8)
"""192 KiB of shared memory for the inputs in flight, and a result of 128 registers a thread."""
OTHER_BLOCKS = (Blocks(128, 256, 64, 3, 8), Blocks(128, 128, 64, 3, 4), Blocks(256, 128, 64, 3, 8))
"""What `benchmarks/gpu.py` times beside it."""


@jit
def _summary(pre, shown, COUNT: tl.constexpr, ROWS: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr):
    """[ROWS, TILES] of `pre [ROWS, TILES * TILE]`: each tile's maximum, or how many above zero."""
    if COUNT:
        seen = tl.sum(tl.reshape(((pre > 0) & shown).to(tl.int32), (ROWS, TILES, TILE)), axis=2)
    else:
        seen = tl.max(tl.reshape(tl.where(shown, pre, float("-inf")), (ROWS, TILES, TILE)), axis=2)
    return seen


@jit
def product_kernel(
    z,
    weight,
    bias,
    pre,
    summary,
    rows,
    n,
    d,
    tiles,
    COUNT: tl.constexpr,
    ABSOLUTE: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    TILE: tl.constexpr,
    GROUPED: tl.constexpr,
):
    """One block of `z @ weight.T + bias`; `z`, `weight` and `pre` are tensor descriptors, which clip at the edges."""
    down, across = tl.cdiv(rows, ROWS), tl.cdiv(n, COLUMNS)
    place = tl.program_id(0)
    group = place // (GROUPED * across)
    height = tl.minimum(down - group * GROUPED, GROUPED)
    within = place % (GROUPED * across)
    row, column = (group * GROUPED + within % height) * ROWS, within // height * COLUMNS

    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for inner in range(0, d, INNER):
        left, right = z.load([row, inner]), weight.load([column, inner])
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        sums = tl.dot(left, right.T, sums, input_precision="ieee")
    columns = column + tl.arange(0, COLUMNS)
    sums += tl.load(bias + columns, columns < n, 0.0)[None, :]
    if ABSOLUTE:
        sums = tl.abs(sums)
    rounded = sums.to(pre.dtype)
    pre.store([row, column], rounded)
    # of the rounded values: what is summed up must be what is read later
    seen = _summary(rounded.to(tl.float32), (columns < n)[None, :], COUNT, ROWS, COLUMNS // TILE, TILE)
    line = row + tl.arange(0, ROWS)
    tile = column // TILE + tl.arange(0, COLUMNS // TILE)
    there = (line < rows)[:, None] & (tile < tiles)[None, :]
    tl.store(summary + line.to(tl.int64)[:, None] * tiles + tile[None, :], seen.to(summary.dtype.element_ty), there)


@jit
def summarise_kernel(pre, summary, n, tiles, stride, COUNT: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr):
    """The summaries of some tiles of one row."""
    line = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * TILES * TILE + tl.arange(0, TILES * TILE)
    values = tl.load(pre + line * stride + columns, columns < n, 0.0).to(tl.float32)
    seen = tl.reshape(_summary(values[None, :], (columns < n)[None, :], COUNT, 1, TILES, TILE), (TILES,))
    tile = tl.program_id(1) * TILES + tl.arange(0, TILES)
    tl.store(summary + line * tiles + tile, seen.to(summary.dtype.element_ty), tile < tiles)


def product(
    z: Tensor, weight: Tensor, bias: Tensor, pre: Tensor, summary: Tensor, tile: int, *, absolute: bool = False,
    blocks: Blocks = BLOCKS,
) -> None:  # fmt: skip
    """`pre = z @ weight.T + bias`, and `summary [B, tiles]` of its tiles: maxima if it is a float type, else counts.

    Args:
        z: [B, d] bfloat16, its rows a multiple of 16 bytes apart.
        weight: [n, d] bfloat16, likewise.
        bias: [n] float32.
        pre: [B, n] bfloat16, likewise; with `absolute`, magnitudes.
        summary: [B, ceil(n / tile)] contiguous.
    """
    (rows, d), n = z.shape, len(weight)
    grid = (triton.cdiv(rows, blocks.rows) * triton.cdiv(n, blocks.columns),)
    with on_device(z):
        product_kernel[grid](
            TensorDescriptor.from_tensor(z, [blocks.rows, blocks.inner]),
            TensorDescriptor.from_tensor(weight, [blocks.columns, blocks.inner]),
            bias,
            TensorDescriptor.from_tensor(pre, [blocks.rows, blocks.columns]),
            summary,
            rows,
            n,
            d,
            summary.shape[1],
            COUNT=not summary.is_floating_point(),
            ABSOLUTE=absolute,
            # the interpreter cannot multiply bfloat16; in float32 the products are the same
            WIDEN=not isinstance(product_kernel, triton.JITFunction),
            ROWS=blocks.rows,
            COLUMNS=blocks.columns,
            INNER=blocks.inner,
            TILE=tile,
            GROUPED=GROUP,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )


def summarise(pre: Tensor, summary: Tensor, tile: int) -> None:
    """`summary [B, tiles]` of a product `pre [B, n]` that is there; see `product`."""
    tiles = summary.shape[1]
    at_once = max(1, min(LANES // tile, power_of_two(tiles)))
    with on_device(pre):
        summarise_kernel[(len(pre), triton.cdiv(tiles, at_once))](
            pre,
            summary,
            pre.shape[1],
            tiles,
            pre.stride(0),
            COUNT=not summary.is_floating_point(),
            TILES=at_once,
            TILE=tile,
            num_warps=warps(at_once * tile),
        )


def low_precision(matrix: Tensor, out: Tensor) -> Tensor:
    """`matrix [rows, d]` in `out [rows, d or a little more]`, of another type; what is more is zero."""
    d = matrix.shape[1]
    out[:, :d] = matrix
    out[:, d:] = 0
    return out


def fast_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32. The interpreter shows what such a device would do."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def own_product(device: torch.device) -> bool:
    """Whether `product` is cut for a device: data centres' GPUs from Hopper on, with 227 KiB for a program's inputs."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] in (9, 10)
