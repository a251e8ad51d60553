"""Selection in Triton's interpreter against its twin, on what breaks selections."""

import math

import pytest
import torch
from drawn import assert_close, assert_distinct, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.kernels import Workspace, reference, triton
from monosem.kernels.triton import plan

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 33), st.integers(1, 300), st.integers(1, 40), st.integers(0, 999))
Shape = tuple[int, int, int, int, int]


@given(SHAPES, st.booleans())
@settings(max_examples=8, deadline=None)
def test_exact_selection_takes_the_largest_values(shape: Shape, absolute: bool) -> None:
    rows, d, n, k, seed = shape
    z, w, b, k = normal(seed, rows, d), normal(seed + 1, n, d), normal(seed + 2, n), min(k, n)
    chosen = triton.select_topk(z, w, b, k, Workspace(), exact=True, absolute=absolute)
    twin = reference.select_topk(z, w, b, k, Workspace(), exact=True, absolute=absolute)
    assert_distinct(chosen, n)
    pre = torch.addmm(b, z, w.T)
    pre = pre.abs() if absolute else pre
    assert_close(pre.gather(1, chosen).sort(1).values, pre.gather(1, twin).sort(1).values)


@given(SHAPES, st.booleans())
@settings(max_examples=8, deadline=None)
def test_low_precision_selection_loses_no_more_than_its_rounding(shape: Shape, absolute: bool) -> None:
    rows, d, n, k, seed = shape
    z, w, b, k = normal(seed, rows, d), normal(seed + 1, n, d), normal(seed + 2, n), min(k, n)
    chosen = triton.select_topk(z, w, b, k, Workspace(), exact=False, absolute=absolute)
    assert_distinct(chosen, n)
    pre = torch.addmm(b, z, w.T)
    pre = pre.abs() if absolute else pre
    # roundings to 8 bits: of each factor, and of the sum, which the interpreter cuts off
    bound = 2**-6 * (z.abs() @ w.abs().T + b.abs()).max()
    assert bool((pre.gather(1, chosen).min(1).values >= pre.topk(k, dim=1).values[:, -1] - bound).all())


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("n", "k"), [(16, 1), (64, 7), (1000, 1), (1031, 7), (1031, 512), (40, 40)])
def test_equal_and_negative_values(n: int, k: int, exact: bool) -> None:
    z, w = torch.ones(2, 3), torch.zeros(n, 3)
    for b in (torch.zeros(n), torch.full((n,), -1.0), -torch.arange(n) % 3 - 3.0):
        chosen = triton.select_topk(z, w, b, k, Workspace(), exact=exact)
        assert_distinct(chosen, n)
        assert torch.equal(b[chosen].sort(1).values, b.topk(k).values.sort().values.expand(2, k))
        # among equals the lowest index, as the twin has it
        assert torch.equal(chosen, reference.select_topk(z, w, b, k, Workspace(), exact=True).sort(1).values)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_give_latents_that_exist(value: float, exact: bool) -> None:
    b = torch.full((37,), value)
    b[5] = 1.0
    assert_distinct(triton.select_topk(torch.zeros(2, 3), torch.zeros(37, 3), b, 20, Workspace(), exact=exact), 37)


def test_a_bias_alone_decides_over_many_tiles() -> None:
    n, k = 3000, 40
    b = normal(0, n)
    cut = plan.selection(n, k)
    assert cut is not None
    assert not cut.direct
    chosen = triton.select_topk(torch.zeros(3, 5), torch.zeros(n, 5), b, k, Workspace(), exact=True)
    assert torch.equal(chosen, b.topk(k).indices.sort().values.expand(3, k))


def test_chunks_and_a_used_workspace_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    z, w, b = normal(0, 11, 9), normal(1, 77, 9), normal(2, 77)
    whole = triton.select_topk(z, w, b, 5, Workspace(), exact=False)
    above = triton.select_above(z, w, b - 2, Workspace(), exact=False)
    monkeypatch.setattr(plan, "PRE_BYTES", 1)
    monkeypatch.setattr(plan, "BLOCK_ROWS", 4)
    workspace = Workspace()
    triton.select_topk(normal(3, 5, 30), normal(4, 99, 30), normal(5, 99), 5, workspace, exact=False)
    assert torch.equal(triton.select_topk(z, w, b, 5, workspace, exact=False), whole)
    assert workspace.buffers["select.pre"].numel() == 4 * 104  # never more than the least that a chunk may be
    again = triton.select_above(z, w, b - 2, workspace, exact=False)
    assert torch.equal(again.indices, above.indices)
    assert torch.equal(again.offsets, above.offsets)


def test_a_product_from_elsewhere_is_selected_from_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    z, w, b = normal(0, 5, 9), normal(1, 200, 9), normal(2, 200)
    scores = torch.addmm(b.bfloat16(), z.bfloat16(), w.bfloat16().T)
    monkeypatch.setattr("monosem.kernels.triton.select.own_product", lambda _: False)
    chosen = triton.select_topk(z, w, b, 6, Workspace(), exact=False)
    assert torch.equal(scores.gather(1, chosen).sort(1).values, scores.topk(6, dim=1).values.sort(1).values)
    above = triton.select_above(z, w, b, Workspace(), exact=False)
    assert torch.equal(above.indices, (scores > 0).nonzero()[:, 1])


def test_what_no_program_could_hold_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    z, w, b = normal(0, 6, 9), normal(1, 200, 9), normal(2, 200)
    whole = triton.select_topk(z, w, b, 60, Workspace(), exact=True)
    monkeypatch.setattr(plan, "LANES", 64)
    assert plan.selection(200, 60) is None
    assert torch.equal(triton.select_topk(z, w, b, 60, Workspace(), exact=True).sort(1).values, whole)


@given(SHAPES, st.sampled_from([-100.0, -1.0, 0.0, 3.0, 100.0]), st.booleans())
@settings(max_examples=8, deadline=None)
def test_selection_above_a_threshold(shape: Shape, shift: float, exact: bool) -> None:
    rows, d, n, _, seed = shape
    z, w, b = normal(seed, rows, d), normal(seed + 1, n, d), normal(seed + 2, n) + shift
    pattern = triton.select_above(z, w, b, Workspace(), exact=exact)
    pre = torch.addmm(b, z, w.T)
    assert (len(pattern.offsets), int(pattern.offsets[-1])) == (rows + 1, len(pattern.indices))
    dense = torch.zeros(rows, n, dtype=torch.bool)
    dense[pattern.row_of_entry(), pattern.indices] = True
    bound = 1e-4 if exact else 2**-6 * float((z.abs() @ w.abs().T + b.abs()).max())
    near = pre.abs() < bound  # which side a value on the border falls is left to rounding
    assert torch.equal(dense | near, (pre > 0) | near)
    assert int(dense.sum()) == len(pattern.indices)
    for first, last in zip(pattern.offsets, pattern.offsets[1:], strict=False):
        assert bool((pattern.indices[first:last].diff() > 0).all())  # ascending, none twice


@given(st.integers(1, 6), st.integers(1, 200), st.integers(1, 200), st.booleans(), st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_only_the_largest_codes_stay(rows: int, width: int, k: int, signed: bool, seed: int) -> None:
    codes, k = normal(seed, rows, width), min(k, width)
    twin = reference.keep_largest(codes.clone(), k, signed=signed)
    assert torch.equal(triton.keep_largest(codes.clone(), k, signed=signed), twin)


def test_equal_codes_and_rows_too_wide_for_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = triton.keep_largest(torch.ones(3, 50), 7, signed=False)
    assert torch.equal(kept, (torch.arange(50) < 7).float().expand(3, 50))
    assert not triton.keep_largest(torch.full((2, 50), -1.0), 7, signed=False).any()
    codes = normal(0, 4, 60)
    narrow = triton.keep_largest(codes.clone(), 9, signed=False)
    monkeypatch.setattr("monosem.kernels.triton.largest.LANES", 32)
    assert torch.equal(triton.keep_largest(codes.clone(), 9, signed=False), narrow)
