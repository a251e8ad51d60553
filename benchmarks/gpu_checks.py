"""Every Triton kernel against its plain twin on one device: what `gpu.py` does before it measures anything.

Inputs are fresh random numbers with ties, rows without a positive value, a latent that every vector uses and latents
that none does. Outputs are filled with NaN beforehand where a kernel must write all of them.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.kernels import AdamSettings, DenseRows, Kernels, Moments, Pattern, Workspace, reference

TOLERANCE = 1e-5
ADAM = AdamSettings(1e-3, 0.9, 0.999, 1e-8, 0.01, 3)


class Shape(NamedTuple):
    """A step's sizes: width, latents, active latents, vectors."""

    d: int
    n: int
    k: int
    batch: int


class Check(NamedTuple):
    """One kernel at one shape."""

    kernel: str
    shape: Shape
    error: float
    """|fast - twin| / |twin|, in float64; for selections the share of rows that lost a larger value."""
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit  # NaN does not


SHAPES = (Shape(576, 4096, 32, 512), Shape(3072, 8192, 64, 256), Shape(333, 1031, 7, 300), Shape(64, 2048, 512, 64),
          Shape(5, 40, 1, 9), Shape(4096, 20_000, 16, 128))  # fmt: skip
TINY = (Shape(12, 70, 5, 9), Shape(33, 131, 1, 6))


def checks(kernels: Kernels, device: torch.device, shapes: tuple[Shape, ...]) -> Iterator[Check]:
    """All kernels at all shapes, with their errors."""
    for seed, shape in enumerate(shapes):
        inputs = Inputs(shape, device, seed)
        for name, limit, measure in (*selections(kernels, inputs), *sums(kernels, inputs), *updates(kernels, inputs)):
            yield Check(name, shape, measure(), limit)


class Inputs:
    """Random weights, vectors and codes of a shape."""

    def __init__(self, shape: Shape, device: torch.device, seed: int) -> None:
        self.shape, self.device = shape, device
        self._generator = torch.Generator(device).manual_seed(seed)
        d, n, k, batch = shape
        self.z, self.w, self.b = self.normal(batch, d), self.normal(n, d), self.normal(n)
        self.w[n // 2 :: 7] = self.w[n // 2]  # ties
        self.w /= self.w.norm(dim=1, keepdim=True)
        self.z[1] = 0
        indices = self.normal(batch, n).topk(min(k, n), dim=1).indices
        hot = int(indices[0, 0])
        indices[:, 0] = torch.where((indices == hot).any(1), indices[:, 0], hot)
        self.pattern = Pattern.fixed(indices, n)
        self.values = self.normal(batch * min(k, n))
        self.extra = DenseRows(
            torch.arange(0, n, 1 + n // 5, device=device), self.normal(len(range(0, n, 1 + n // 5)), d)
        )

    def normal(self, *size: int) -> Tensor:
        return torch.randn(*size, device=self.device, generator=self._generator)

    def unwritten(self, *size: int) -> Tensor:
        return torch.full(size, torch.nan, device=self.device)


Measure = tuple[str, float, Callable[[], float]]


def selections(kernels: Kernels, inputs: Inputs) -> Iterator[Measure]:
    """Selections: the share of rows whose smallest choice is below the true k-th value by more than rounding allows."""
    z, w, b, k = inputs.z, inputs.w, inputs.b - 1, min(inputs.shape.k, inputs.shape.n)
    pre = (z.double() @ w.double().T + b.double()).float()
    slack = {True: 1e-4, False: float(2**-6 * (z.abs() @ w.abs().T + b.abs()).max())}

    def lost(exact: bool, absolute: bool) -> float:
        scores = pre.abs() if absolute else pre
        chosen = kernels.select_topk(z, w, b, k, Workspace(), exact=exact, absolute=absolute)
        distinct = chosen.sort(1).values.diff(dim=1).gt(0).all(1) if k > 1 else torch.ones_like(chosen[:, 0] > 0)
        enough = scores.gather(1, chosen).amin(1) >= scores.topk(k, dim=1).values[:, -1] - slack[exact]
        return float((~(distinct & enough)).float().mean())

    def misplaced(exact: bool) -> float:
        pattern = kernels.select_above(z, w, b, Workspace(), exact=exact)
        dense = torch.zeros_like(pre, dtype=torch.bool)
        dense[pattern.row_of_entry(), pattern.indices] = True
        wrong = (dense != (pre > 0)) & (pre.abs() > slack[exact])
        return float(wrong.any(1).float().mean()) + float(int(dense.sum()) != len(pattern.indices))

    for exact in (True, False):
        how = "float32" if exact else "bfloat16"
        yield f"select_topk {how}", 0.0, lambda exact=exact: lost(exact, False)
        yield f"select_topk {how} absolute", 0.0, lambda exact=exact: lost(exact, True)
        yield f"select_above {how}", 0.0, lambda exact=exact: misplaced(exact)


def sums(kernels: Kernels, inputs: Inputs) -> Iterator[Measure]:
    """Sparse products, the pattern turned round, and what is summed by latent; each twice, to the same bits."""
    z, w, b, pattern, values = inputs.z, inputs.w, inputs.b, inputs.pattern, inputs.values
    turned, n, d = reference.by_latent(pattern), *w.shape

    def twice(make: Callable[[], Tensor], twin: Tensor) -> float:
        first, second = make().clone(), make()
        return error(first, twin) if torch.equal(first, second) else float("inf")

    def turn() -> Tensor:
        found = kernels.by_latent(pattern)
        return torch.cat([found.rows, found.offsets, found.order.int()])

    def gradient(extra: DenseRows | None, by: Kernels) -> Tensor:
        return by.latent_gradient(values, turned, z, extra, inputs.unwritten(n, d))

    twin = torch.cat([turned.rows, turned.offsets, turned.order.int()])
    yield "by_latent", 0.0, lambda: twice(turn, twin)
    yield (
        "values_at",
        TOLERANCE,
        lambda: twice(lambda: kernels.values_at(z, w, pattern, b), reference.values_at(z, w, pattern, b)),
    )
    yield (
        "decode",
        TOLERANCE,
        lambda: twice(lambda: kernels.decode(values, pattern, w), reference.decode(values, pattern, w)),
    )
    yield (
        "decode bfloat16",
        TOLERANCE,
        lambda: twice(
            lambda: kernels.decode(values, pattern, w.bfloat16()),
            reference.decode(values, pattern, w.bfloat16().float()),
        ),
    )
    yield (
        "sum_by_latent",
        TOLERANCE,
        lambda: twice(
            lambda: kernels.sum_by_latent(values, pattern, turned), reference.sum_by_latent(values, pattern, turned)
        ),
    )
    yield (
        "code_gradients",
        TOLERANCE,
        lambda: twice(
            lambda: kernels.code_gradients(values, pattern, turned, z, w, Workspace()).values,
            reference.values_at(z, w, pattern),
        ),
    )
    yield "latent_gradient", TOLERANCE, lambda: twice(lambda: gradient(None, kernels), gradient(None, reference))
    yield (
        "latent_gradient with rows",
        TOLERANCE,
        lambda: twice(lambda: gradient(inputs.extra, kernels), gradient(inputs.extra, reference)),
    )
    codes = inputs.normal(40, min(n, 5000))
    k = min(inputs.shape.k, codes.shape[1])
    yield (
        "keep_largest",
        0.0,
        lambda: twice(
            lambda: kernels.keep_largest(codes.clone(), k, signed=False),
            reference.keep_largest(codes.clone(), k, signed=False),
        ),
    )


def updates(kernels: Kernels, inputs: Inputs) -> Iterator[Measure]:
    """Optimizer steps, with and without a gradient tensor: weight and both moments together."""
    start, first, second = inputs.w, inputs.normal(*inputs.w.shape), inputs.normal(*inputs.w.shape).square()
    gradient, turned = inputs.normal(*inputs.w.shape), reference.by_latent(inputs.pattern)

    def stepped(by: Kernels, unit: bool, from_codes: bool) -> Tensor:
        weight, moments = start.clone(), Moments(first.clone(), second.clone())
        if from_codes:
            by.update_from_codes(
                weight, inputs.values, turned, inputs.z, inputs.extra, moments, ADAM, project=unit, unit_norm=unit
            )
        else:
            by.update_rows(weight, gradient.clone(), moments, ADAM, project=unit, unit_norm=unit)
        return torch.cat([weight, *moments])

    for from_codes in (True, False):
        for unit in (True, False):
            name = ("update_from_codes" if from_codes else "update_rows") + (" unit" if unit else "")
            yield (
                name,
                TOLERANCE,
                lambda unit=unit, from_codes=from_codes: error(
                    stepped(kernels, unit, from_codes), stepped(reference, unit, from_codes)
                ),
            )


def error(fast: Tensor, twin: Tensor) -> float:
    """|fast - twin| / |twin| in float64."""
    fast, twin = fast.double(), twin.double()
    return float((fast - twin).norm() / twin.norm().clamp_min(1e-30))
