"""Statistics against a float64 reference, in any grouping, far off centre, and for norms of any size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monosem.errors import StoreError
from monosem.store import stats
from monosem.store.stats import Statistics, merge


def activations(rows: int, d: int = 17, centre: float = 1000.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, d, generator=generator) * torch.logspace(-2, 2, d)
    return (x + centre * torch.linspace(-1, 1, d)).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 2, 1024, 5000])
def test_mean_and_variance_are_the_float64_ones(rows: int, dtype: torch.dtype) -> None:
    x = activations(rows).to(dtype)
    found = Statistics.of(x)
    reference = x.double().numpy()
    assert found.count == rows
    np.testing.assert_allclose(found.mean, reference.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, reference.var(0), rtol=1e-6, atol=1e-12)
    assert found.total_variance == pytest.approx(((reference - reference.mean(0)) ** 2).sum(1).mean(), rel=1e-6)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(0, 100))
def test_any_grouping_gives_the_same(sizes: list[int], seed: int) -> None:
    x = activations(sum(sizes), d=5, seed=seed)
    merged = merge([Statistics.of(part) for part in x.split(sizes)])
    whole = Statistics.of(x)
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(merged.variance, whole.variance, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(merged.norms, whole.norms)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e4])
def test_quantiles_of_norms_are_within_their_bin(scale: float) -> None:
    x = activations(20_001, centre=0) * scale
    norms = x.double().norm(dim=1).numpy()
    found = Statistics.of(x)
    for q in (0.01, 0.25, 0.5, 0.75, 0.99):
        assert found.norm_quantile(q) == pytest.approx(np.quantile(norms, q), rel=0.0056)


def test_a_zero_and_a_huge_activation_have_a_place_in_the_histogram() -> None:
    found = Statistics.of(torch.tensor([[0.0, 0.0], [1e30, 1e30]]))
    assert found.norms.sum() == 2
    assert found.norms[0] == found.norms[-1] == 1
    with pytest.raises(ValueError, match="no activations"):
        Statistics.empty(3).norm_quantile(0.5)


def test_they_are_saved_whole(tmp_path: Path) -> None:
    found = Statistics.of(activations(100))
    found.save(tmp_path)
    loaded = Statistics.load(tmp_path)
    assert loaded.count == 100
    for name in ("mean", "variance", "norms"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(found, name))
    (tmp_path / stats.FILE).unlink()
    with pytest.raises(StoreError, match="missing"):
        Statistics.load(tmp_path)
