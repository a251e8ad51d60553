"""Selection on CPUs: which latents a vector may use, from a product that is never held whole.

Row chunks are multiplied in bfloat16 where the CPU has instructions for it (in float32 elsewhere) into one reused
buffer, and read once while they are in the cache. Only places leave this module; values are recomputed exactly.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor

from monosem.kernels.codes import Pattern, Workspace

CHUNK_VALUES = 1 << 23
"""Pre-activations computed at a time: 16 MiB in bfloat16, inside a last-level cache."""
TILE = 8
"""Values behind each maximum of the selection."""
PARTITION_WIDTH = 512
PARTITION_THREADS = 4
"""Up to these, numpy's vectorised partition on one thread beats torch's threaded `topk`."""


@cache
def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # newer than our oldest torch
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "sve_bf16", "arm_bf16"))


def select_topk(
    z: Tensor, w_enc: Tensor, b_enc: Tensor, k: int, workspace: Workspace, *, exact: bool, absolute: bool = False
) -> Tensor:
    """See `reference.select_topk`; exact up to ties."""
    chosen = torch.empty(len(z), k, dtype=torch.int64, device=z.device)
    for first, scores in _scores(z, w_enc, b_enc, workspace, exact):
        chosen[first : first + len(scores)] = _largest(scores.abs_() if absolute else scores, k)
    return chosen


def select_above(z: Tensor, w_enc: Tensor, bias: Tensor, workspace: Workspace, *, exact: bool) -> Pattern:
    """See `reference.select_above`."""
    rows, n = len(z), len(w_enc)
    found = []
    for first, scores in _scores(z, w_enc, bias, workspace, exact):
        # numpy finds the ones of a byte mask several times faster than torch does
        found.append(torch.from_numpy(np.flatnonzero((scores > 0).numpy())).add_(first * n))
    places = torch.cat(found)
    offsets = torch.searchsorted(places, torch.arange(rows + 1) * n)
    return Pattern(places.remainder_(n), offsets, n)


def _scores(z: Tensor, w_enc: Tensor, bias: Tensor, workspace: Workspace, exact: bool) -> Iterator[tuple[int, Tensor]]:
    """The first row and the pre-activations `[chunk, n]` of one row chunk after another, all in the same buffer."""
    rows, n = len(z), len(w_enc)
    dtype = torch.float32 if exact or not has_fast_bf16() else torch.bfloat16
    z = _with_bias(z, torch.ones((), device=z.device), dtype, workspace, "select.z")
    weight = _with_bias(w_enc, bias, dtype, workspace, "select.weight").T
    chunk = max(32, CHUNK_VALUES // n)
    pre = workspace.get("select.pre", (min(chunk, rows), n), dtype, z.device)
    for first in range(0, rows, chunk):
        part = z[first : first + chunk]
        yield first, torch.mm(part, weight, out=pre[: len(part)])


def _with_bias(matrix: Tensor, bias: Tensor, dtype: torch.dtype, workspace: Workspace, name: str) -> Tensor:
    """`[matrix, bias]` in `dtype`: the bias rides in the product, which a separate pass over [B, n] would not.

    The width is made even, because bfloat16 products take pairs.
    """
    rows, d = matrix.shape
    extended = workspace.get(name, (rows, d + 1 + (d + 1) % 2), dtype, matrix.device)
    extended[:, :d] = matrix
    extended[:, d] = bias
    extended[:, d + 1 :] = 0
    return extended


def _largest(scores: Tensor, k: int) -> Tensor:
    """Columns of the k largest of every row, in any order.

    The k tiles with the largest maxima contain the k largest values (up to ties), and the same holds for the
    maxima themselves, so that `topk` never sees more than a few multiples of k values.
    """
    columns = scores.shape[1]
    tiles = columns // TILE
    if tiles < 2 * k:
        return _top_positions(scores, k)
    # a tile is every `tiles`-th column, so that its maximum is taken over whole vectors
    maxima = torch.amax(scores[:, : tiles * TILE].unflatten(1, (TILE, tiles)), dim=1)
    inside = torch.arange(0, tiles * TILE, tiles, device=scores.device)
    survivors = (_largest(maxima, k).unsqueeze(1) + inside[:, None]).flatten(1)
    if columns > tiles * TILE:
        rest = torch.arange(tiles * TILE, columns, device=scores.device)
        survivors = torch.cat([survivors, rest.expand(len(scores), -1)], dim=1)
    return survivors.gather(1, _top_positions(scores.gather(1, survivors), k))


def _top_positions(scores: Tensor, k: int) -> Tensor:
    """Columns of the k largest of every row of a few columns, in any order."""
    width = scores.shape[1]
    if width > PARTITION_WIDTH or torch.get_num_threads() > PARTITION_THREADS:
        return torch.topk(scores, k, dim=1, sorted=False).indices
    # integers that order as (value, lowest column): the float's bits, turned round below zero, above the column
    half = 16 if scores.dtype == torch.bfloat16 else 32
    bits = scores.view(torch.int16 if half == 16 else torch.int32).to(torch.int32 if half == 16 else torch.int64)
    keys = (bits >> half).bitwise_and_((1 << (half - 1)) - 1).bitwise_xor_(bits).bitwise_left_shift_(half)
    keys += torch.arange(width - 1, -1, -1, dtype=keys.dtype)
    keys.numpy().partition(width - k, axis=1)
    return width - 1 - (keys[:, width - k :] & ((1 << half) - 1)).long()
