"""Every fast kernel against its twin, on the shapes and values that break kernels."""

import os
import subprocess
import sys

import pytest
import torch
from drawn import ADAM, assert_close, normal, random_pattern
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem import kernels
from monosem.errors import RecipeError
from monosem.kernels import AdamSettings, DenseRows, Moments, Pattern, Workspace, choose, cpu, cpu_select, reference

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 33), st.integers(1, 300), st.integers(1, 40), st.integers(0, 999))


@given(SHAPES)
@settings(max_examples=40, deadline=None)
def test_exact_selection_takes_the_largest_values(shape: tuple[int, int, int, int, int]) -> None:
    rows, d, n, k, seed = shape
    z, w, b, k = normal(seed, rows, d), normal(seed + 1, n, d), normal(seed + 2, n), min(k, n)
    fast = cpu.select_topk(z, w, b, k, Workspace(), exact=True)
    twin = reference.select_topk(z, w, b, k, Workspace(), exact=True)
    assert all(len(set(row)) == k for row in fast.tolist())
    pre = torch.addmm(b, z, w.T)
    assert_close(pre.gather(1, fast).sort(1).values, pre.gather(1, twin).sort(1).values)


@given(SHAPES)
@settings(max_examples=40, deadline=None)
def test_low_precision_selection_loses_no_more_than_its_rounding(shape: tuple[int, int, int, int, int]) -> None:
    rows, d, n, k, seed = shape
    z, w, b, k = normal(seed, rows, d), normal(seed + 1, n, d), normal(seed + 2, n), min(k, n)
    chosen = cpu.select_topk(z, w, b, k, Workspace(), exact=False)
    assert all(len(set(row)) == k for row in chosen.tolist())
    pre = torch.addmm(b, z, w.T)
    # three roundings to 8 bits: of each factor, and of the sum
    bound = 2**-7 * (z.abs() @ w.abs().T + b.abs()).max()
    smallest_kept = pre.gather(1, chosen).min(1).values
    assert bool((smallest_kept >= pre.topk(k, dim=1).values[:, -1] - bound).all())


@pytest.mark.parametrize("n", [8, 64, 1000, 1031, 4096])
@pytest.mark.parametrize("k", [1, 2, 7])
def test_selection_of_equal_and_negative_values(n: int, k: int) -> None:
    z, w = torch.ones(5, 3), torch.zeros(n, 3)
    for b in (torch.zeros(n), torch.full((n,), -1.0), -torch.arange(n) % 3 - 3.0):
        chosen = cpu.select_topk(z, w, b, k, Workspace(), exact=True)
        assert chosen.shape == (5, k)
        assert all(len(set(row)) == k for row in chosen.tolist())
        assert torch.equal(b[chosen].sort(1).values, b.topk(k).values.sort().values.expand(5, k))


@given(SHAPES)
@settings(max_examples=40, deadline=None)
def test_selection_by_magnitude(shape: tuple[int, int, int, int, int]) -> None:
    rows, d, n, k, seed = shape
    z, w, b, k = normal(seed, rows, d), normal(seed + 1, n, d), normal(seed + 2, n), min(k, n)
    fast = cpu.select_topk(z, w, b, k, Workspace(), exact=True, absolute=True)
    twin = reference.select_topk(z, w, b, k, Workspace(), exact=True, absolute=True)
    pre = torch.addmm(b, z, w.T).abs()
    assert_close(pre.gather(1, fast).sort(1).values, pre.gather(1, twin).sort(1).values)


@given(SHAPES, st.sampled_from([-100.0, -1.0, 0.0, 3.0, 100.0]))
@settings(max_examples=40, deadline=None)
def test_selection_above_a_threshold(shape: tuple[int, int, int, int, int], shift: float) -> None:
    rows, d, n, _, seed = shape
    z, w, b = normal(seed, rows, d), normal(seed + 1, n, d), normal(seed + 2, n) + shift
    fast, twin = (way.select_above(z, w, b, Workspace(), exact=True) for way in (cpu, reference))
    pre = torch.addmm(b, z, w.T)
    for pattern in (fast, twin):
        assert (len(pattern.offsets), int(pattern.offsets[-1])) == (rows + 1, len(pattern.indices))
        dense = torch.zeros(rows, n, dtype=torch.bool)
        dense[pattern.row_of_entry(), pattern.indices] = True
        near = pre.abs() < 1e-4  # which side a value on the border falls is left to rounding
        assert torch.equal(dense | near, (pre > 0) | near)
        assert int(dense.sum()) == len(pattern.indices)


def test_a_pattern_keeps_the_entries_of_a_mask() -> None:
    pattern = Pattern(torch.tensor([4, 1, 2, 0, 3]), torch.tensor([0, 2, 2, 5]), 5)
    kept = pattern.kept(torch.tensor([False, True, True, False, True]))
    assert (kept.indices.tolist(), kept.offsets.tolist()) == ([1, 2, 3], [0, 1, 1, 3])
    assert kept.row_of_entry().tolist() == [0, 2, 2]


def test_selection_is_by_lowest_index_among_equals_in_the_twin() -> None:
    chosen = reference.select_topk(torch.ones(2, 3), torch.zeros(9, 3), torch.zeros(9), 4, Workspace(), exact=True)
    assert chosen.tolist() == [[0, 1, 2, 3]] * 2


def test_selection_is_the_same_over_many_chunks_and_in_a_used_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    z, w, b = normal(0, 200, 9), normal(1, 77, 9), normal(2, 77)
    whole = cpu.select_topk(z, w, b, 5, Workspace(), exact=True)
    monkeypatch.setattr(cpu_select, "CHUNK_VALUES", 77 * 32)
    workspace = Workspace()
    cpu.select_topk(normal(3, 500, 30), normal(4, 99, 30), normal(5, 99), 5, workspace, exact=True)
    assert torch.equal(cpu.select_topk(z, w, b, 5, workspace, exact=True).sort(1).values, whole.sort(1).values)


@given(SHAPES)
@settings(max_examples=40, deadline=None)
def test_sparse_products_equal_dense_ones(shape: tuple[int, int, int, int, int]) -> None:
    rows, d, n, k, seed = shape
    pattern = random_pattern(rows, n, k, seed)
    z, w, b = normal(seed + 1, rows, d), normal(seed + 2, n, d), normal(seed + 3, n)
    assert_close(cpu.values_at(z, w, pattern), reference.values_at(z, w, pattern))
    assert_close(cpu.values_at(z, w, pattern, b), reference.values_at(z, w, pattern, b))
    values = normal(seed + 4, len(pattern.indices))
    assert_close(cpu.decode(values, pattern, w), reference.decode(values, pattern, w))


@given(SHAPES)
@settings(max_examples=40, deadline=None)
def test_latent_gradients_and_updates_equal_their_twins(shape: tuple[int, int, int, int, int]) -> None:
    rows, d, n, k, seed = shape
    pattern = random_pattern(rows, n, k, seed)
    values, vectors = normal(seed + 1, len(pattern.indices)), normal(seed + 2, rows, d)
    dead = normal(seed, n).topk(min(n, 3)).indices.sort().values
    extra = DenseRows(dead, normal(seed + 3, len(dead), d))
    fast, twin = cpu.by_latent(pattern), reference.by_latent(pattern)
    assert torch.equal(fast.rows, twin.rows)
    assert torch.equal(fast.offsets, twin.offsets)
    for more in (None, extra):
        assert_close(
            cpu.latent_gradient(values, fast, vectors, more, torch.full((n, d), 7.0)),
            reference.latent_gradient(values, twin, vectors, more, torch.full((n, d), 7.0)),
        )
        results = []
        for way, order in ((cpu, fast), (reference, twin)):
            weight = torch.nn.functional.normalize(normal(seed + 4, n, d))
            moments = Moments(normal(seed + 5, n, d), normal(seed + 6, n, d).square())
            way.update_from_codes(weight, values, order, vectors, more, moments, ADAM, project=True, unit_norm=True)
            results.append((weight, *moments))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_blocks_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, vectors = random_pattern(50, 90, 4, 0), normal(1, 50, 6)
    values, extra = normal(2, 200), DenseRows(torch.tensor([0, 6, 7, 13, 14, 89]), normal(3, 6, 6))
    order = cpu.by_latent(pattern)
    whole = cpu.latent_gradient(values, order, vectors, extra, torch.empty(90, 6))
    monkeypatch.setattr(cpu, "BLOCK_VALUES", 7 * 6)
    assert torch.equal(cpu.latent_gradient(values, order, vectors, extra, torch.empty(90, 6)), whole)


def test_one_latent_used_by_every_vector_and_others_by_none() -> None:
    pattern, vectors = Pattern.fixed(torch.full((3000, 1), 5), 11), normal(0, 3000, 7)
    gradient = cpu.latent_gradient(torch.ones(3000), cpu.by_latent(pattern), vectors, None, torch.empty(11, 7))
    assert_close(gradient[5], vectors.double().sum(0).float())
    assert not gradient[[0, 1, 2, 3, 4, 6, 7, 8, 9, 10]].any()


def test_ragged_patterns_with_empty_vectors() -> None:
    pattern = Pattern(torch.tensor([2, 0, 1, 2]), torch.tensor([0, 0, 3, 3, 4]), 5)
    values, w, z = torch.tensor([1.0, 2.0, 3.0, 4.0]), normal(0, 5, 6), normal(1, 4, 6)
    assert pattern.row_of_entry().tolist() == [1, 1, 1, 3]
    assert_close(cpu.decode(values, pattern, w), reference.decode(values, pattern, w))
    assert_close(cpu.values_at(z, w, pattern), reference.values_at(z, w, pattern))
    fast = cpu.latent_gradient(values, cpu.by_latent(pattern), z, None, torch.empty(5, 6))
    assert_close(fast, reference.latent_gradient(values, reference.by_latent(pattern), z, None, torch.empty(5, 6)))


@pytest.mark.parametrize("shape", [(50,), (50, 4)])
def test_adamw_equals_torch(shape: tuple[int, ...]) -> None:
    weight, theirs = normal(0, *shape), torch.nn.Parameter(normal(0, *shape))
    moments = Moments.zeros_like(weight)
    optimizer = torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, foreach=False)
    for step in range(1, 6):
        gradient = normal(step, *shape)
        theirs.grad = gradient.clone()
        optimizer.step()
        adam = AdamSettings(lr=1e-2, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1, step=step)
        cpu.update_rows(weight, gradient, moments, adam)
    torch.testing.assert_close(weight, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_projection_leaves_nothing_along_the_rows() -> None:
    weight = torch.nn.functional.normalize(normal(0, 30, 8))
    fast, twin = normal(1, 30, 8), normal(1, 30, 8)
    cpu.project_rows(fast, weight)
    reference.project_rows(twin, weight)
    assert_close(fast, twin)
    assert float((fast * weight).sum(1).abs().max()) < 1e-5


def test_the_switch_forces_one_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONOSEM_KERNELS", raising=False)
    assert choose(torch.device("cpu")) is cpu
    monkeypatch.setenv("MONOSEM_KERNELS", "reference")
    assert choose(torch.device("cpu")) is choose(torch.device("cuda")) is reference
    monkeypatch.setenv("MONOSEM_KERNELS", "fastest")
    with pytest.raises(RecipeError, match="MONOSEM_KERNELS='fastest'"):
        choose(torch.device("cpu"))
    monkeypatch.setenv("MONOSEM_KERNELS", "triton")
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(RecipeError, match="on a cpu device: needs TRITON_INTERPRET=1"):
        choose(torch.device("cpu"))


def test_the_device_the_type_and_the_width_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONOSEM_KERNELS", raising=False)
    assert choose(torch.device("meta")) is reference
    assert choose(torch.device("cuda"), torch.float64) is reference
    assert choose(torch.device("cuda"), torch.float32, 1 << 16) is reference
    assert choose(torch.device("cpu"), torch.float64) is cpu


def test_without_triton_the_twin_serves_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MONOSEM_KERNELS", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    kernels._triton.cache_clear()
    assert choose(torch.device("cuda")) is choose(torch.device("cuda")) is reference
    assert capsys.readouterr().err == (
        "Triton is not installed: training runs on its plain kernels, slowly; pip install triton\n"
    )
    monkeypatch.setenv("MONOSEM_KERNELS", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RecipeError, match="Triton is not installed"):
        choose(torch.device("cpu"))
    kernels._triton.cache_clear()


def test_choosing_no_triton_does_not_load_it() -> None:
    code = "import sys, torch, monosem.kernels as k; k.choose(torch.device('cpu')); assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "MONOSEM_KERNELS": ""})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("columns", [1, 40, 513, 3001])
def test_both_ways_to_the_largest_agree(dtype: torch.dtype, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = normal(0, 60, columns).to(dtype)
    scores[0] = 0
    scores[1] = -normal(1, columns).abs().to(dtype)
    scores[2] *= 1e30
    for k in {1, min(7, columns), columns}:
        expected = scores.topk(k, dim=1).values.sort(1).values
        for threads in (0, 4):
            monkeypatch.setattr(cpu_select, "PARTITION_THREADS", threads)
            found = cpu_select._largest(scores, k)
            assert all(len(set(row)) == k for row in found.tolist())
            assert torch.equal(scores.gather(1, found).sort(1).values, expected)
