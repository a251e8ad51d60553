"""The k largest of a row, exactly: floats become integers of the same order, and the k-th is found bit by bit.

Equal values go to the lowest index. Whatever the bits are, NaN included, exactly k places are chosen, all of them
real ones.
"""

import torch
import triton.language as tl
from torch import Tensor

from monosem.kernels.triton.launch import jit, on_device, warps
from monosem.kernels.triton.plan import LANES, Selection, power_of_two


@jit
def _ordered(values, BITS: tl.constexpr):
    """Unsigned integers of `BITS` bits in the order of `values`."""
    bits = values.to(tl.float32).to(tl.uint32, bitcast=True)
    return tl.where((bits >> 31) != 0, ~bits, bits | 0x80000000) >> (32 - BITS)


@jit
def _largest(keys, k, BITS: tl.constexpr):
    """A mask of the k largest of `keys`, the first ones among equals."""
    border = tl.full((), 0, tl.uint32)
    bit = tl.full((), 1 << (BITS - 1), tl.uint32)  # pyright: ignore[reportOperatorIssue]
    for _ in range(BITS):
        higher = border | bit
        border = tl.where(tl.sum((keys >= higher).to(tl.int32), axis=0) >= k, higher, border)
        bit = bit >> 1
    above, equal = keys > border, keys == border
    room = k - tl.sum(above.to(tl.int32), axis=0)
    return above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= room))


@jit
def tiles_kernel(maxima, chosen, tiles, k, BITS: tl.constexpr, LANES: tl.constexpr):
    """The k tiles of one row with the largest maxima, ascending."""
    line, tile = tl.program_id(0).to(tl.int64), tl.arange(0, LANES)
    values = tl.load(maxima + line * tiles + tile, tile < tiles, 0.0)
    taken = _largest(tl.where(tile < tiles, _ordered(values, BITS), 0), k, BITS)
    tl.store(chosen + line * k + tl.cumsum(taken.to(tl.int32), 0) - 1, tile, taken)


@jit
def values_kernel(
    pre, tiles, chosen, n, k, count, stride,
    ALL: tl.constexpr, BITS: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The k largest values of one row, looked for in `count` of its tiles, or in all."""
    line, place = tl.program_id(0).to(tl.int64), tl.arange(0, TILES)
    if ALL:
        tile = place
    else:
        tile = tl.load(tiles + line * count + place, place < count, 0)
    column = tile[:, None] * TILE + tl.arange(0, TILE)[None, :]
    there = (place < count)[:, None] & (column < n)
    values = tl.load(pre + line * stride + column, there, 0.0)
    keys = tl.reshape(tl.where(there, _ordered(values, BITS), 0), (TILES * TILE,))
    taken = _largest(keys, k, BITS)
    column = tl.reshape(column, (TILES * TILE,)).to(tl.int64)
    tl.store(chosen + line * k + tl.cumsum(taken.to(tl.int32), 0) - 1, column, taken)


@jit
def keep_kernel(codes, width, k, SIGNED: tl.constexpr, LANES: tl.constexpr):
    """One row with all but its k largest values (magnitudes) set to zero, and those below zero too."""
    line, column = tl.program_id(0).to(tl.int64), tl.arange(0, LANES)
    there = column < width
    values = tl.load(codes + line * width + column, there, 0.0)
    keys = _ordered(tl.abs(values) if SIGNED else values, 32)
    kept = _largest(tl.where(there, keys, 0), k, 32)
    if not SIGNED:
        values = tl.where(values < 0, 0.0, values)
    tl.store(codes + line * width + column, tl.where(kept, values, 0.0), there)


def largest(pre: Tensor, maxima: Tensor, k: int, cut: Selection, chosen: Tensor, tiles: Tensor) -> None:
    """Columns of the k largest of every row of `pre [B, n]`, ascending, into `chosen [B, k]` int64.

    Args:
        pre: bfloat16 or float32.
        maxima: [B, tiles] of the same type.
        cut: how the maxima were cut.
        tiles: [B, k] int32, memory to work in.
    """
    rows, bits = len(pre), 8 * pre.element_size()
    count = min(k, cut.tiles)
    with on_device(pre):
        if not cut.direct:
            lanes = power_of_two(cut.tiles)
            tiles_kernel[(rows,)](maxima, tiles, cut.tiles, k, BITS=bits, LANES=lanes, num_warps=warps(lanes))
        values_kernel[(rows,)](
            pre,
            tiles,
            chosen,
            pre.shape[1],
            k,
            count,
            pre.stride(0),
            ALL=cut.direct,
            BITS=bits,
            TILES=cut.lanes // cut.tile,
            TILE=cut.tile,
            num_warps=warps(cut.lanes),
        )


def keep_largest(codes: Tensor, k: int, *, signed: bool) -> Tensor:
    """See `reference.keep_largest`."""
    width = codes.shape[1]
    if width > LANES:  # a row that no program can hold
        kept = torch.topk(codes.abs() if signed else codes, k, dim=1, sorted=False).indices
        values = codes.gather(1, kept)
        codes.zero_().scatter_(1, kept, values if signed else values.relu_())
        return codes
    lanes = power_of_two(width)
    with on_device(codes):
        keep_kernel[(len(codes),)](codes, width, k, SIGNED=signed, LANES=lanes, num_warps=warps(lanes))
    return codes
