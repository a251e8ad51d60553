"""The data have the frequencies, families, directions and sizes that were asked for, and are the same every time."""

import pytest
import torch

from monosem.errors import RecipeError
from monosem.evaluate.synthetic import PARENT_RATIO, Synthetic, SyntheticSettings, generations

SMALL = SyntheticSettings(n_true=200, d=48, l0=6.0, clusters=4, rank=3, seed=5)


def dense(data: Synthetic, rows: int) -> torch.Tensor:
    return data.batch(0, rows).codes.dense()


def with_settings(**changes: float) -> Synthetic:
    return Synthetic(SyntheticSettings(**({**vars(SMALL)} | changes)))  # type: ignore[arg-type]


def test_a_batch_is_decided_by_its_arguments_alone():
    data = with_settings(noise=0.1, bias=2.0)
    again = with_settings(noise=0.1, bias=2.0)
    assert torch.equal(data.batch(3, 50).x, again.batch(3, 50).x)
    for other in (
        data.batch(4, 50),
        data.batch(3, 50, "test"),
        with_settings(noise=0.1, bias=2.0, seed=6).batch(3, 50),
    ):
        assert not torch.equal(data.batch(3, 50).x, other.x)
    streamed = list(data.batches(20, 3, "test"))
    assert all(torch.equal(batch.x, data.batch(i, 20, "test").x) for i, batch in enumerate(streamed))


def test_vectors_are_their_codes_times_the_dictionary():
    data = with_settings(bias=2.0)
    batch = data.batch(0, 100)
    assert batch.x.dtype == torch.float32
    assert float(data.bias.norm()) == pytest.approx(2.0, abs=1e-5)
    torch.testing.assert_close(batch.x, batch.codes.dense() @ data.dictionary + data.bias, rtol=1e-4, atol=1e-5)
    assert bool((batch.codes.values > 0).all())


def test_noise_has_the_norm_asked_for():
    plain, noisy = with_settings(), with_settings(noise=0.5)
    difference = noisy.batch(0, 4000).x - plain.batch(0, 4000).x
    assert float(difference.square().sum(1).mean().sqrt()) == pytest.approx(0.5, rel=0.02)


def test_every_feature_fires_as_often_as_set_whatever_the_correlations():
    data = with_settings(correlation=0.8, children=0.5)
    assert float(data.frequency.sum()) == pytest.approx(6.0, abs=1e-6)
    rows = 60_000
    counted = sum((batch.codes.dense() > 0).double().sum(0) for batch in data.batches(6000, 10)) / rows
    # firing of one feature is independent over vectors: a binomial, within five standard deviations
    allowed = 5 * (data.frequency * (1 - data.frequency) / rows).sqrt()
    assert bool(((counted - data.frequency).abs() < allowed).all())


def test_frequencies_follow_zipf_below_the_cap():
    frequency = with_settings(zipf=1.5, most=0.2).frequency
    assert float(frequency.max()) == 0.2
    below = frequency[frequency < 0.2]
    rank = torch.arange(1, 201, dtype=torch.float64)[frequency < 0.2]
    torch.testing.assert_close(below * rank**1.5, (below * rank**1.5)[:1].expand(len(below)))
    assert float(with_settings(zipf=0).frequency.std()) == pytest.approx(0, abs=1e-9)


def test_a_child_fires_only_with_its_parent():
    data = with_settings(children=0.6)
    children = (data.parent >= 0).nonzero().squeeze(1)
    assert 60 < len(children) < 140
    parents = data.parent[children]
    assert bool((data.frequency[parents] >= PARENT_RATIO * data.frequency[children]).all())
    fires = dense(data, 5000) > 0
    assert not bool((fires[:, children] & ~fires[:, parents]).any())
    assert bool((fires[:, parents] & ~fires[:, children]).any())
    assert len(generations(data.parent)) >= 2, "grandchildren, too"
    assert bool((with_settings(children=0.0).parent == -1).all())


def test_generations_hold_every_child_once_and_after_its_parent():
    parent = torch.tensor([-1, 0, 1, 0, -1, 2])
    assert [level.tolist() for level in generations(parent)] == [[1, 3], [2], [5]]


def test_roots_fire_together_only_when_correlated():
    def strongest(correlation: float) -> float:
        fires = (dense(with_settings(correlation=correlation, children=0.0), 20_000) > 0).double()
        off = torch.corrcoef(fires[:, :30].T).fill_diagonal_(0)
        return float(off.abs().max())

    assert strongest(0.0) < 0.05
    assert strongest(0.8) > 0.2


def test_features_are_unit_rows_as_alike_as_asked():
    data = with_settings(n_true=400, coherence=0.3)
    torch.testing.assert_close(data.dictionary.norm(dim=1), torch.ones(400))
    cosine = data.dictionary @ data.dictionary.T
    alike = float((cosine.sum() - cosine.trace()) / (400 * 399))
    # a quarter of all pairs share one of four clusters, whose own directions are nearly orthogonal
    assert alike == pytest.approx(0.3 / 4, abs=0.04)
    apart = with_settings(n_true=400, coherence=0.0).dictionary
    cosine = apart @ apart.T
    assert abs(float((cosine.sum() - cosine.trace()) / (400 * 399))) < 0.01


def test_magnitudes_are_lognormal_with_mean_one():
    values = with_settings(spread=0.5).batch(0, 20_000).codes.values
    assert float(values.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(values.log().std()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"l0": 100.0}, "l0 = 100.0"),
        ({"children": 1.0}, "children = 1.0"),
        ({"n_true": 0}, "n_true = 0"),
        ({"noise": -1.0}, "noise = -1.0"),
        ({"most": 0.0}, "most = 0.0"),
    ],
)
def test_impossible_settings_are_named(changes: dict[str, float], said: str):
    with pytest.raises(RecipeError, match=said):
        with_settings(**changes)
