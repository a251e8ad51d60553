"""Figures of reconstruction: the definitions' fixed points, and agreement with plain formulas over whole tensors."""

import pytest
import torch
from random_model import D, N, random_activations, random_sae

from monosem.errors import StoreError
from monosem.evaluate import baselines
from monosem.evaluate.reconstruction import Rebuilt, Totals, constant, identity, measure, through
from monosem.store.pairs import Sample


def figures(x, method, batch=64):
    return measure((Sample(part, part) for part in x.split(batch)), {"it": method})["it"]


def test_predicting_the_mean_has_an_fvu_of_one():
    x = random_activations(1000) + 50.0  # far from zero, where a careless variance cancels
    x[:, 3] *= 1000
    assert figures(x, constant(x.double().mean(0).float())).fvu == pytest.approx(1, abs=1e-6)


def test_the_identity_is_perfect():
    found = figures(random_activations(), identity)
    assert (found.fvu, found.l0, found.reference_loss) == (0, D, 0)
    assert found.cosine == pytest.approx(1)
    assert found.norm_ratio == pytest.approx(1)
    assert found.relative_bias == pytest.approx(1)


def test_zero_has_no_cosine_and_no_norm():
    found = figures(random_activations(), constant(torch.zeros(D)))
    assert (found.cosine, found.norm_ratio, found.l0, found.relative_bias) == (0, 0, 0, 0)


@pytest.mark.parametrize("normalisation", ["layer", "dataset", "none"])
def test_figures_are_the_definitions(normalisation):
    x, sae = random_activations(), random_sae(normalisation)
    x_hat, codes = sae(x)
    found = figures(x, through(sae), batch=37)
    error = (x - x_hat).double()
    assert found.rows == len(x)
    assert found.fvu == pytest.approx((error.square().sum() / (x - x.mean(0)).double().square().sum()).item(), rel=1e-5)
    assert found.l0 == pytest.approx(codes.l0())
    assert found.cosine == pytest.approx(torch.cosine_similarity(x, x_hat).mean().item(), rel=1e-5)
    assert found.norm_ratio == pytest.approx((x_hat.norm(dim=1) / x.norm(dim=1)).mean().item(), rel=1e-5)
    assert found.relative_bias == pytest.approx((x_hat.square().sum() / (x * x_hat).sum()).item(), rel=1e-4)
    spread = x.double().std(1, keepdim=True) + 1e-6
    assert found.reference_loss == pytest.approx((error / spread).square().mean().item(), rel=1e-5)


def test_the_batching_changes_nothing():
    x, method = random_activations(), through(random_sae())
    # float32 products round by the number of rows that they are given
    assert tuple(figures(x, method, 200)) == pytest.approx(tuple(figures(x, method, 3)), rel=1e-6)


def test_permuted_latents_rebuild_the_same():
    x, sae, permuted = random_activations(), random_sae(), random_sae()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec"):
            getattr(permuted, name).copy_(getattr(sae, name)[order])
    assert not torch.equal(permuted.encode(x).indices, sae.encode(x).indices)
    assert figures(x, through(permuted)).fvu == pytest.approx(figures(x, through(sae)).fvu, rel=1e-6)


def test_nothing_to_measure_is_an_error():
    with pytest.raises(StoreError, match="0 activations"):
        Totals().figures()
    constant_rows = torch.ones(4, D)
    with pytest.raises(StoreError, match="without any variance"):
        figures(constant_rows, identity)
    empty = Totals()
    empty.add(torch.zeros(0, D), Rebuilt(torch.zeros(0, D), torch.zeros(0)))
    assert empty.rows == 0


def test_pca_matches_a_singular_value_decomposition():
    x = random_activations(300)
    pca = baselines.fit_pca(x.split(70), 5)
    centred = x - x.mean(0)
    _, _, basis = torch.linalg.svd(centred, full_matrices=False)
    expected = centred @ basis[:5].T @ basis[:5] + x.mean(0)
    rebuilt = pca(Sample(x, x))
    torch.testing.assert_close(rebuilt.x_hat, expected, rtol=1e-4, atol=1e-4)
    assert rebuilt.active.unique().tolist() == [5]


def test_pca_rank_is_the_fewest_components_that_reach_an_fvu():
    x = random_activations(300)
    pca = baselines.fit_pca([x], 1)
    by_rank = [figures(x, pca._replace(components=rank)).fvu for rank in range(D + 1)]
    for rank in (0, 1, 7, D - 1):
        assert baselines.pca_rank(pca, x.split(64), by_rank[rank] + 1e-6) == rank
    assert baselines.pca_rank(pca, x.split(64), -1.0) == D


@pytest.mark.parametrize("normalisation", ["layer", "dataset", "none"])
def test_a_random_sae_is_untrained_of_the_same_shape_and_centred(normalisation):
    x, sae = random_activations(), random_sae(normalisation)
    random, again, other = (baselines.random_sae(sae, seed, Sample(x, x)) for seed in (1, 1, 2))
    assert random.config == sae.config
    assert torch.equal(random.W_dec, again.W_dec)
    assert not torch.equal(random.W_dec, other.W_dec)
    torch.testing.assert_close(random.normalise(x).z.mean(0), torch.zeros(D), atol=1e-4, rtol=0)
    assert 0 < figures(x, through(random)).fvu < 1
