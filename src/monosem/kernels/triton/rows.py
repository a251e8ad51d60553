"""One row's optimizer step in one pass: projection, AdamW, unit norm. Weight, gradient and moments are read once.

`finish` is what the gradient kernel calls with a gradient that it has just summed up and that never becomes a tensor;
here it also serves gradients that are tensors.
"""

import triton
import triton.language as tl
from torch import Tensor

from monosem.kernels.adam import AdamSettings, Moments
from monosem.kernels.triton.launch import jit, on_device, warps
from monosem.kernels.triton.plan import power_of_two

FLAT = 1024
"""Values for each program where a parameter is a vector."""


@jit
def project(gradient, weight):
    """The part of a gradient row across its weight row."""
    return gradient - tl.sum(gradient * weight, axis=0) * weight


@jit
def finish(
    gradient, weight, first, second, place, there,
    rate, decay, keep1, move1, keep2, move2, root, eps,
    PROJECT: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Apply a gradient row to its weight row and moments; `place` are their places, `there` which of them exist."""
    w = tl.load(weight + place, there, 0.0)
    if PROJECT:
        gradient = project(gradient, w)
    m = keep1 * tl.load(first + place, there, 0.0) + move1 * gradient
    v = keep2 * tl.load(second + place, there, 0.0) + move2 * gradient * gradient
    w = w * decay - rate * m / (tl.sqrt(v) * root + eps)
    if UNIT:
        w = tl.where(there, w, 0.0)
        w = w / tl.sqrt(tl.sum(w * w, axis=0))
    tl.store(first + place, m, there)
    tl.store(second + place, v, there)
    tl.store(weight + place, w, there)


@jit
def update_kernel(
    weight, gradient, first, second, d, total,
    rate, decay, keep1, move1, keep2, move2, root, eps,
    PROJECT: tl.constexpr, UNIT: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One row's step on a gradient that is a tensor."""
    column = tl.arange(0, COLUMNS)
    place = tl.program_id(0).to(tl.int64) * d + column
    there = (column < d) & (place < total)
    finish(
        tl.load(gradient + place, there, 0.0), weight, first, second, place, there,
        rate, decay, keep1, move1, keep2, move2, root, eps, PROJECT, UNIT,
    )  # fmt: skip


@jit
def project_kernel(gradient, weight, d, COLUMNS: tl.constexpr):
    """One row's projection, in place."""
    column = tl.arange(0, COLUMNS)
    place, there = tl.program_id(0).to(tl.int64) * d + column, column < d
    across = project(tl.load(gradient + place, there, 0.0), tl.load(weight + place, there, 0.0))
    tl.store(gradient + place, across, there)


def constants(adam: AdamSettings) -> tuple[float, ...]:
    """What AdamW's step is made of, as `finish` takes it: differences from 1 are taken in float64, here."""
    return (
        adam.lr / (1 - adam.beta1**adam.step),
        1 - adam.lr * adam.weight_decay,
        adam.beta1,
        1 - adam.beta1,
        adam.beta2,
        1 - adam.beta2,
        (1 - adam.beta2**adam.step) ** -0.5,
        adam.eps,
    )


def update_rows(
    weight: Tensor,
    gradient: Tensor,
    moments: Moments,
    adam: AdamSettings,
    *,
    project: bool = False,
    unit_norm: bool = False,
) -> None:
    """See `reference.update_rows`."""
    assert all(tensor.is_contiguous() for tensor in (weight, *moments))
    d = weight.shape[1] if weight.dim() == 2 else FLAT
    columns = power_of_two(d)
    with on_device(weight):
        update_kernel[(triton.cdiv(weight.numel(), d),)](
            weight,
            gradient.contiguous(),
            moments.first,
            moments.second,
            d,
            weight.numel(),
            *constants(adam),
            PROJECT=project,
            UNIT=unit_norm,
            COLUMNS=columns,
            num_warps=warps(columns),
        )


def project_rows(gradient: Tensor, weight: Tensor) -> None:
    """See `reference.project_rows`."""
    assert gradient.is_contiguous()
    columns = power_of_two(weight.shape[1])
    with on_device(weight):
        project_kernel[(len(weight),)](gradient, weight, weight.shape[1], COLUMNS=columns, num_warps=warps(columns))
