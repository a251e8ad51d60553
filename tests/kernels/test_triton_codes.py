"""What follows the selection, in Triton's interpreter, against its twins."""

import pytest
import torch
from drawn import ADAM, assert_close, normal, random_pattern
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from monosem.kernels import AdamSettings, DenseRows, Kernels, Moments, Pattern, Workspace, reference, triton
from monosem.kernels.triton import gather, latents, plan

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 33), st.integers(1, 25), st.integers(1, 9), st.integers(0, 999))
Shape = tuple[int, int, int, int, int]


@given(SHAPES)
@settings(max_examples=8, deadline=None)
def test_sparse_products_equal_dense_ones(shape: Shape) -> None:
    rows, d, n, k, seed = shape
    pattern = random_pattern(rows, n, k, seed)
    z, w, b = normal(seed + 1, rows, d), normal(seed + 2, n, d), normal(seed + 3, n)
    assert_close(triton.values_at(z, w, pattern), reference.values_at(z, w, pattern))
    assert_close(triton.values_at(z, w, pattern, b), reference.values_at(z, w, pattern, b))
    values = normal(seed + 4, len(pattern.indices))
    assert_close(triton.decode(values, pattern, w), reference.decode(values, pattern, w))
    low = w.bfloat16()
    assert_close(triton.decode(values, pattern, low), reference.decode(values, pattern, low.float()))


@pytest.mark.parametrize("d", [1, 576, 1100])
def test_widths_over_several_programs(d: int) -> None:
    pattern, z, w = random_pattern(2, 20, 12, 0), normal(1, 2, d), normal(2, 20, d)
    assert_close(triton.values_at(z, w, pattern), reference.values_at(z, w, pattern))
    values = normal(3, 24)
    assert_close(triton.decode(values, pattern, w), reference.decode(values, pattern, w))
    fast = triton.latent_gradient(values, triton.by_latent(pattern), z, None, torch.empty(20, d))
    assert_close(fast, reference.latent_gradient(values, reference.by_latent(pattern), z, None, torch.empty(20, d)))


def test_few_vectors_share_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, z, w = random_pattern(2, 90, 70, 0), normal(1, 2, 9), normal(2, 90, 9)
    whole = triton.values_at(z, w, pattern)
    monkeypatch.setattr(gather, "ENTRIES", 16)
    assert torch.equal(triton.values_at(z, w, pattern), whole)


def updated(kernels: Kernels, pattern: Pattern, seed: int, d: int, more: DenseRows | None, unit: bool) -> list[Tensor]:
    n, values = pattern.n, normal(seed + 1, len(pattern.indices))
    weight = torch.nn.functional.normalize(normal(seed + 4, n, d))
    moments = Moments(normal(seed + 5, n, d), normal(seed + 6, n, d).square())
    vectors = normal(seed + 2, pattern.rows, d)
    order = kernels.by_latent(pattern)
    kernels.update_from_codes(weight, values, order, vectors, more, moments, ADAM, project=unit, unit_norm=unit)
    return [weight, *moments]


@given(SHAPES)
@settings(max_examples=5, deadline=None)
def test_gradients_and_updates_equal_their_twins(shape: Shape) -> None:
    rows, d, n, k, seed = shape
    pattern = random_pattern(rows, n, k, seed)
    values, vectors = normal(seed + 1, len(pattern.indices)), normal(seed + 2, rows, d)
    dead = normal(seed, n).topk(min(n, 3)).indices.sort().values
    extra = DenseRows(dead, normal(seed + 3, len(dead), d))
    fast, twin = triton.by_latent(pattern), reference.by_latent(pattern)
    assert all(torch.equal(a, b) for a, b in zip(vars(fast).values(), vars(twin).values(), strict=True))
    assert_close(triton.sum_by_latent(values, pattern, fast), reference.sum_by_latent(values, pattern, twin))
    for more in (None, extra):
        assert_close(
            triton.latent_gradient(values, fast, vectors, more, torch.full((n, d), 7.0)),
            reference.latent_gradient(values, twin, vectors, more, torch.full((n, d), 7.0)),
        )
        for ours, theirs in zip(
            updated(triton, pattern, seed, d, more, more is None),
            updated(reference, pattern, seed, d, more, more is None),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@given(SHAPES)
@settings(max_examples=8, deadline=None)
def test_gradients_of_codes_and_the_decoder_come_together(shape: Shape) -> None:
    rows, d, n, k, seed = shape
    pattern = random_pattern(rows, n, k, seed)
    values, w = normal(seed + 1, len(pattern.indices)), normal(seed + 2, n, d)
    d_output, order = normal(seed + 3, rows, d), triton.by_latent(pattern)
    found = triton.code_gradients(values, pattern, order, d_output, w, Workspace())
    assert_close(found.values, reference.values_at(d_output, w, pattern))
    assert (found.weight is None) == (len(values) <= 2 * n)
    if found.weight is not None:
        assert_close(found.weight, reference.latent_gradient(values, order, d_output, None, torch.empty(n, d)))


@pytest.mark.parametrize("segment", [4, 64])
def test_a_latent_that_every_vector_uses_beside_dead_ones(segment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SEGMENT", segment)
    rows, n, d = 70, 9, 6
    pattern = Pattern.fixed(torch.stack([torch.full((rows,), 5), torch.arange(rows) % 2 * 8], 1), n)
    values, vectors, w = normal(0, 2 * rows), normal(1, rows, d), normal(2, n, d)
    order = triton.by_latent(pattern)
    uses = latents._uses(values, order, vectors)
    assert int(uses.parts[-1]) == (len(uses.owners[uses.owners < n])) == (17 + 8 + 8 if segment == 4 else 1)
    gradient = triton.latent_gradient(values, order, vectors, None, torch.full((n, d), 7.0))
    assert_close(gradient[5], (values[::2, None].double() * vectors.double()).sum(0).float())
    assert not gradient[[1, 2, 3, 4, 6, 7]].any()
    found = triton.code_gradients(values, pattern, order, vectors, w, Workspace())
    assert_close(found.values, reference.values_at(vectors, w, pattern))
    assert found.weight is not None
    assert_close(found.weight, gradient)
    # adding segments up in another order than one long sum changes only the rounding
    for ours, theirs in zip(
        updated(triton, pattern, 3, d, None, True), updated(reference, pattern, 3, d, None, True), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_ragged_patterns_with_empty_vectors() -> None:
    pattern = Pattern(torch.tensor([2, 0, 1, 2]), torch.tensor([0, 0, 3, 3, 4]), 5)
    values, w, z = torch.tensor([1.0, 2.0, 3.0, 4.0]), normal(0, 5, 6), normal(1, 4, 6)
    assert_close(triton.decode(values, pattern, w), reference.decode(values, pattern, w))
    assert_close(triton.values_at(z, w, pattern), reference.values_at(z, w, pattern))
    fast = triton.latent_gradient(values, triton.by_latent(pattern), z, None, torch.empty(5, 6))
    assert_close(fast, reference.latent_gradient(values, reference.by_latent(pattern), z, None, torch.empty(5, 6)))


def test_nothing_active_at_all() -> None:
    pattern = Pattern(torch.empty(0, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), 5)
    values, order = torch.empty(0), triton.by_latent(pattern)
    assert not triton.decode(values, pattern, normal(0, 5, 6)).any()
    assert triton.values_at(normal(1, 3, 6), normal(0, 5, 6), pattern).shape == (0,)
    assert not triton.latent_gradient(values, order, normal(1, 3, 6), None, torch.full((5, 6), 7.0)).any()
    assert not triton.sum_by_latent(values, pattern, order).any()


@pytest.mark.parametrize("shape", [(50,), (1500,), (20, 4), (3, 1030)])
def test_adamw_equals_torch(shape: tuple[int, ...]) -> None:
    weight, theirs = normal(0, *shape), torch.nn.Parameter(normal(0, *shape))
    moments = Moments.zeros_like(weight)
    optimizer = torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, foreach=False)
    for step in range(1, 4):
        gradient = normal(step, *shape)
        theirs.grad = gradient.clone()
        optimizer.step()
        triton.update_rows(weight, gradient, moments, AdamSettings(1e-2, 0.9, 0.99, 1e-8, 0.1, step))
    torch.testing.assert_close(weight, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_projection_and_unit_rows() -> None:
    weight = torch.nn.functional.normalize(normal(0, 12, 37))
    fast, twin = normal(1, 12, 37), normal(1, 12, 37)
    triton.project_rows(fast, weight)
    reference.project_rows(twin, weight)
    assert_close(fast, twin)
    results = []
    for kernels in (triton, reference):
        own, moments = weight.clone(), Moments.zeros_like(weight)
        kernels.update_rows(own, normal(1, 12, 37), moments, ADAM, project=True, unit_norm=True)
        results.append((own, *moments))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[0][0].norm(dim=1), torch.ones(12))


@pytest.mark.slow
def test_rows_that_begin_beyond_two_billion_values() -> None:
    """The weight is 2.1 GB of int8, of which two rows are looked at: what counts is where they begin."""
    d = 2048
    n = (1 << 31) // d + 2
    weight = torch.empty(n, d, dtype=torch.int8)
    rows = torch.randint(-9, 9, (2, d), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    weight[[1, n - 1]] = rows
    assert (n - 1) * d > (1 << 31)
    pattern, values = Pattern.fixed(torch.tensor([[n - 1, 1]]), n), torch.tensor([2.0, -3.0])
    assert torch.equal(triton.decode(values, pattern, weight)[0], 2.0 * rows[1] - 3.0 * rows[0])
    z = normal(0, 1, d)
    assert_close(triton.values_at(z, weight, pattern), (rows.float() @ z[0]).flip(0))
