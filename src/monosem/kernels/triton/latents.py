"""Gradients, one latent at a time: the pattern turned round, and the sums that every gradient is.

One kernel for all: it walks over a latent's uses, gathers their vectors, and adds them up; on the way it may find the
gradients of the codes (products with the latent's own row), and at the end it stores the sum or applies it. No atomics:
a sum's order is its latent's, so the same input gives the same bits. A latent with very many uses is cut into segments
that other programs sum up first.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from monosem.kernels.adam import AdamSettings, Moments
from monosem.kernels.codes import Backward, ByLatent, DenseRows, Pattern, Workspace
from monosem.kernels.triton import gather, plan
from monosem.kernels.triton.launch import jit, on_device, warps
from monosem.kernels.triton.rows import constants, finish

HELD = 1 << 13
"""Gathered values that a program holds at a time."""
SUM_USES = 256


class Uses(NamedTuple):
    """The entries that latents are summed over, and how hot latents are cut."""

    values: Tensor
    """[nnz] in the pattern's order."""
    by_latent: ByLatent
    rows: Tensor
    """[B, d] the vectors that entries point to."""
    segment: int
    parts: Tensor
    """[n + 1] int32: latent i has further segments `parts[i]` to `parts[i + 1]`."""
    owners: Tensor
    """[most] int32: the latent of every further segment; n where there is none."""


@jit
def _gathered(
    total, own, start, last, values, order, uses, rows, d_values, d, stride, column,
    PRODUCTS: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """`total` and the vectors of entries `start` to `last`, times their values; products with `own` on the way."""
    for begin in range(start, last, AT_ONCE):
        entry = begin + tl.arange(0, AT_ONCE)
        there = entry < last
        place = tl.load(order + entry, there, 0)
        row = tl.load(uses + entry, there, 0).to(tl.int64)
        vector = tl.load(rows + row[:, None] * stride + column[None, :], there[:, None] & (column < d)[None, :], 0.0)
        total += tl.sum(tl.load(values + place, there, 0.0)[:, None] * vector, axis=0)
        if PRODUCTS:
            tl.store(d_values + place, tl.sum(vector * own[None, :], axis=1), there)
    return total


@jit
def segments_kernel(
    values, order, uses, offsets, rows, parts, owners, partial, weight, d_values, n, d, stride, segment,
    PRODUCTS: tl.constexpr, AT_ONCE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The sum over one further segment of a hot latent."""
    part = tl.program_id(0)
    latent = tl.load(owners + part).to(tl.int64)
    if latent < n:
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        start = tl.load(offsets + latent) + (part - tl.load(parts + latent) + 1) * segment
        last = tl.minimum(start + segment, tl.load(offsets + latent + 1))
        total = tl.zeros((COLUMNS,), tl.float32)
        own = total
        if PRODUCTS:
            own = tl.load(weight + latent * d + column, column < d, 0.0)
        total = _gathered(
            total, own, start, last, values, order, uses, rows, d_values, d, stride, column, PRODUCTS, AT_ONCE
        )
        tl.store(partial + part.to(tl.int64) * d + column, total, column < d)


@jit
def latents_kernel(
    values, order, uses, offsets, rows, parts, partial, extra, extra_rows, weight, d_values, out, first, second,
    d, stride, segment, rate, decay, keep1, move1, keep2, move2, root, eps,
    PRODUCTS: tl.constexpr, EXTRA: tl.constexpr, UPDATE: tl.constexpr, PROJECT: tl.constexpr, UNIT: tl.constexpr,
    AT_ONCE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One latent's gradient: its first segment, the sums of the others, a dense row; stored, or applied at once."""
    latent = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = column < d
    start = tl.load(offsets + latent)
    last = tl.minimum(start + segment, tl.load(offsets + latent + 1))
    total = tl.zeros((COLUMNS,), tl.float32)
    own = total
    if PRODUCTS:
        own = tl.load(weight + latent * d + column, there, 0.0)
    total = _gathered(
        total, own, start, last, values, order, uses, rows, d_values, d, stride, column, PRODUCTS, AT_ONCE
    )
    for part in range(tl.load(parts + latent).to(tl.int64), tl.load(parts + latent + 1).to(tl.int64)):
        total += tl.load(partial + part * d + column, there, 0.0)
    if EXTRA:
        more = tl.load(extra + latent).to(tl.int64)
        if more >= 0:
            total += tl.load(extra_rows + more * d + column, there, 0.0)
    if UPDATE:
        finish(
            total, weight, first, second, latent * d + column, there,
            rate, decay, keep1, move1, keep2, move2, root, eps, PROJECT, UNIT,
        )  # fmt: skip
    else:
        tl.store(out + latent * d + column, total, there)


@jit
def sums_kernel(values, order, offsets, out, AT_ONCE: tl.constexpr):
    """The sum of one latent's values."""
    latent = tl.program_id(0).to(tl.int64)
    last = tl.load(offsets + latent + 1)
    total = tl.zeros((AT_ONCE,), tl.float32)
    for start in range(tl.load(offsets + latent), last, AT_ONCE):
        entry = start + tl.arange(0, AT_ONCE)
        place = tl.load(order + entry, entry < last, 0)
        total += tl.load(values + place, entry < last, 0.0)
    tl.store(out + latent, tl.sum(total, axis=0))


def by_latent(pattern: Pattern) -> ByLatent:
    """See `reference.by_latent`: one radix sort, and a search for where each latent begins."""
    keys, order = torch.sort(pattern.indices.int(), stable=True)
    borders = torch.arange(pattern.n + 1, dtype=torch.int32, device=keys.device)
    offsets = torch.searchsorted(keys, borders, out_int32=True)
    return ByLatent(pattern.row_of_entry()[order].int(), offsets, order)


def sum_by_latent(values: Tensor, pattern: Pattern, by_latent: ByLatent) -> Tensor:
    """See `reference.sum_by_latent`."""
    out = torch.empty(pattern.n, dtype=torch.float32, device=values.device)
    with on_device(values):
        sums_kernel[(pattern.n,)](
            values.contiguous(), by_latent.order, by_latent.offsets, out, AT_ONCE=SUM_USES, num_warps=1
        )
    return out


def code_gradients(
    values: Tensor, pattern: Pattern, by_latent: ByLatent, d_output: Tensor, weight: Tensor, workspace: Workspace
) -> Backward:
    """See `reference.code_gradients`; the decoder's gradient comes along where that saves more than it costs."""
    if not plan.keeps_gradient(len(values), len(weight)):
        return Backward(gather.values_at(d_output, weight, pattern), None)
    d_values = torch.empty_like(values)
    out = workspace.get("backward.gradient", tuple(weight.shape), weight.dtype, weight.device)
    _launch(_uses(values, by_latent, d_output), None, weight, out=out, d_values=d_values)
    return Backward(d_values, out)


def latent_gradient(values: Tensor, by_latent: ByLatent, rows: Tensor, extra: DenseRows | None, out: Tensor) -> Tensor:
    """See `reference.latent_gradient`."""
    _launch(_uses(values, by_latent, rows), extra, out, out=out)
    return out


def update_from_codes(
    weight: Tensor,
    values: Tensor,
    by_latent: ByLatent,
    rows: Tensor,
    extra: DenseRows | None,
    moments: Moments,
    adam: AdamSettings,
    *,
    project: bool = False,
    unit_norm: bool = False,
) -> None:
    """See `reference.update_from_codes`; the gradient exists in registers only."""
    uses = _uses(values, by_latent, rows)
    _launch(uses, extra, weight, moments=moments, adam=adam, project=project, unit_norm=unit_norm)


def _uses(values: Tensor, by_latent: ByLatent, rows: Tensor) -> Uses:
    segment = plan.segment(len(values))
    counts = by_latent.offsets.diff()
    further = (counts - 1).clamp_min_(0) // segment
    parts = torch.zeros_like(by_latent.offsets)
    torch.cumsum(further, 0, out=parts[1:])
    most = torch.arange(len(values) // segment, dtype=torch.int32, device=values.device)
    owners = torch.searchsorted(parts[1:], most, right=True, out_int32=True)
    return Uses(values.contiguous(), by_latent, rows, segment, parts, owners)


def _launch(
    uses: Uses,
    extra: DenseRows | None,
    weight: Tensor,
    *,
    out: Tensor | None = None,
    d_values: Tensor | None = None,
    moments: Moments | None = None,
    adam: AdamSettings | None = None,
    project: bool = False,
    unit_norm: bool = False,
) -> None:
    """Sum every latent's uses, and store or apply the sums."""
    n, d = weight.shape
    assert weight.is_contiguous()
    assert uses.rows.stride(1) == 1
    whole = project or unit_norm or d_values is not None  # needs a row in one program
    columns = plan.power_of_two(d) if whole else plan.column_tile(d)
    at_once = max(1, min(8, HELD // columns))
    shape = {"PRODUCTS": d_values is not None, "AT_ONCE": at_once, "COLUMNS": columns}
    across, warp_count = triton.cdiv(d, columns), warps(at_once * columns // 2)
    sparse = (uses.values, uses.by_latent.order, uses.by_latent.rows, uses.by_latent.offsets, uses.rows, uses.parts)
    partial = torch.empty(len(uses.owners), d, dtype=torch.float32, device=weight.device)
    first, second = moments or (None, None)
    step = constants(adam) if adam is not None else (0.0,) * 8
    with on_device(weight):
        segments_kernel[(len(uses.owners), across)](
            *sparse, uses.owners, partial, weight, d_values, n, d, uses.rows.stride(0), uses.segment,
            **shape, num_warps=warp_count,
        )  # fmt: skip
        latents_kernel[(n, across)](
            *sparse, partial, *_extra(extra, n), weight, d_values, out, first, second,
            d, uses.rows.stride(0), uses.segment, *step,
            EXTRA=extra is not None, UPDATE=adam is not None, PROJECT=project, UNIT=unit_norm,
            **shape, num_warps=warp_count,
        )  # fmt: skip


def _extra(extra: DenseRows | None, n: int) -> tuple[Tensor | None, Tensor | None]:
    """[n] int32, each latent's row of `extra` or -1, and those rows."""
    if extra is None:
        return None, None
    place = torch.full((n,), -1, dtype=torch.int32, device=extra.latents.device)
    place[extra.latents] = torch.arange(len(extra.latents), dtype=torch.int32, device=extra.latents.device)
    return place, extra.rows.contiguous()
