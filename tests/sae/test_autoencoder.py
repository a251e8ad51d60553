"""The autoencoder on raw activations: normalisations undone, exact codes, the start of its weights, its errors."""

import pytest
import torch
from torch import Tensor

from monosem.errors import SaeError
from monosem.sae.autoencoder import Autoencoder, Normalisation, SaeConfig
from monosem.sae.codes import Codes
from monosem.sae.initialise import block_orthogonal, dataset_statistics, geometric_median

NORMALISATIONS: tuple[Normalisation, ...] = ("layer", "dataset", "none")


def activations(rows: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, d, generator=torch.Generator().manual_seed(seed)) * 3 + torch.linspace(-4, 9, d)


def make_sae(normalisation: Normalisation, d: int = 12, n: int = 70, k: int = 5) -> Autoencoder:
    x = activations(400, d, 1)
    statistics = dataset_statistics(x.mean(0), x.var(0, correction=0)) if normalisation == "dataset" else None
    config = SaeConfig(d, n, k, normalisation=normalisation)
    sae = Autoencoder(config, torch.Generator().manual_seed(3), statistics, torch.linspace(-0.3, 0.3, d))
    with torch.no_grad():
        sae.b_enc.add_(torch.linspace(-0.2, 0.2, n))
    return sae


def plain(sae: Autoencoder, x: Tensor) -> Tensor:
    """The reconstruction by its definition, dense, in float64."""
    x = x.double()
    w_enc, b_enc, w_dec, b_pre = (sae.get_parameter(p).detach().double() for p in ("W_enc", "b_enc", "W_dec", "b_pre"))
    shift, scale = {
        "layer": (x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-6),
        "dataset": (sae.mean.double(), 1 / sae.scale.double()),
        "none": (torch.zeros(()), torch.ones(())),
    }[sae.config.normalisation]
    a = ((x - shift) / scale - b_pre) @ w_enc.T + b_enc
    top = a.topk(sae.config.k, dim=1)
    h = torch.zeros_like(a).scatter(1, top.indices, top.values.relu())
    return (h @ w_dec + b_pre) * scale + shift


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_reconstruction_is_its_definition_in_raw_units(normalisation: Normalisation) -> None:
    sae, x = make_sae(normalisation), activations(90, 12)
    x_hat, codes = sae(x)
    torch.testing.assert_close(x_hat.double(), plain(sae, x), rtol=1e-5, atol=1e-5)
    assert codes.values.shape == codes.indices.shape == (90, 5)
    assert bool((codes.values.diff(dim=1) <= 0).all())
    assert codes.l0() == pytest.approx(float((codes.dense() > 0).sum(1).float().mean()))
    assert x_hat.dtype == torch.float32
    assert not x_hat.requires_grad


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_float_type_is_read(normalisation: Normalisation, dtype: torch.dtype) -> None:
    sae, x = make_sae(normalisation), activations(30, 12).to(dtype)
    assert torch.equal(sae(x).x_hat, sae(x.float()).x_hat)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_direction_is_what_a_unit_of_a_latent_adds(normalisation: Normalisation) -> None:
    sae, x = make_sae(normalisation), activations(20, 12)
    codes = sae.encode(x)
    more = Codes(codes.values + torch.tensor([1.0, 0, 0, 0, 0]), codes.indices, codes.n, codes.mean, codes.std)
    added = sae.decode(more) - sae.decode(codes)
    scale = codes.std if codes.std is not None else torch.ones(20, 1)
    expected = torch.stack([sae.direction(int(latent)) for latent in codes.indices[:, 0]]) * scale
    torch.testing.assert_close(added, expected, rtol=1e-4, atol=1e-4)


def test_dataset_normalisation_centres_and_scales() -> None:
    x = activations(400, 12, 1)
    sae = make_sae("dataset")
    z = sae.normalise(x).z + sae.b_pre
    torch.testing.assert_close(z.mean(0), torch.zeros(12), rtol=0, atol=1e-5)
    assert float(z.square().sum(1).mean().detach()) == pytest.approx(12, rel=1e-4)


def test_permuted_latents_reconstruct_the_same() -> None:
    plain_sae, permuted = make_sae("dataset"), make_sae("dataset")
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec"):
            permuted.get_parameter(name).copy_(plain_sae.get_parameter(name)[order])
    x = activations(60, 12)
    ours, theirs = plain_sae(x), permuted(x)
    torch.testing.assert_close(ours.x_hat, theirs.x_hat, rtol=1e-5, atol=1e-5)
    assert torch.equal(order[theirs.codes.indices], ours.codes.indices)


def test_fast_selection_keeps_exact_values() -> None:
    sae, x = make_sae("dataset", n=500), activations(200, 12)
    exact, fast = sae.encode(x), sae.encode(x, exact=False)
    assert float(fast.values.sum()) == pytest.approx(float(exact.values.sum()), rel=1e-2)
    same = exact.dense().gather(1, fast.indices)
    agree = same > 0
    assert float(agree.float().mean()) > 0.9
    torch.testing.assert_close(fast.values[agree], same[agree], rtol=1e-5, atol=1e-5)


def test_nothing_active_decodes_to_the_bias() -> None:
    sae, x = make_sae("none"), activations(9, 12)
    with torch.no_grad():
        sae.b_enc.fill_(-1e4)
    x_hat, codes = sae(x)
    assert codes.l0() == 0
    assert not codes.values.any()
    assert torch.equal(x_hat, sae.b_pre.detach().expand(9, 12))


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_no_activations_are_no_codes(normalisation: Normalisation) -> None:
    x_hat, codes = make_sae(normalisation)(torch.zeros(0, 12))
    assert x_hat.shape == (0, 12)
    assert len(codes) == 0
    assert codes.l0() == 0


def test_the_seed_decides_the_start_and_ties_it() -> None:
    first, second = make_sae("none"), make_sae("none")
    assert torch.equal(first.W_dec, second.W_dec)
    assert torch.equal(first.W_enc, first.W_dec)
    other = Autoencoder(SaeConfig(12, 70, 5, normalisation="none"), torch.Generator().manual_seed(4))
    assert not torch.equal(first.W_dec, other.W_dec)


@pytest.mark.parametrize(("n", "d"), [(30, 8), (8, 8), (5, 8), (3, 1)])
def test_blocks_of_the_dictionary_are_orthogonal(n: int, d: int) -> None:
    rows = block_orthogonal(n, d, torch.Generator().manual_seed(0))
    assert rows.shape == (n, d)
    for first in range(0, n, d):
        block = rows[first : first + d]
        torch.testing.assert_close(block @ block.T, torch.eye(len(block)), rtol=0, atol=1e-5)


def test_the_geometric_median_resists_outliers() -> None:
    points = torch.cat([activations(500, 6), torch.full((40, 6), 1e4)])
    median = geometric_median(points)
    assert float((median - torch.linspace(-4, 9, 6)).norm()) < 2
    pull = torch.nn.functional.normalize(points - median, dim=1).mean(0)
    assert float(pull.norm()) < 1e-3  # the unit vectors to all points cancel


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 71}, "k = 71 is larger than n = 70"),
        ({"d": 0}, "d = 0"),
        ({"normalisation": "batch"}, "normalisation 'batch'"),
        ({"sparsity": "dense"}, "sparsity 'dense'"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(SaeError, match=message):
        SaeConfig(**{"d": 12, "n": 70, "k": 5, **change})  # pyright: ignore[reportArgumentType]


def test_what_does_not_fit_is_refused() -> None:
    sae = make_sae("layer")
    with pytest.raises(SaeError, match=r"shape \[4, 13\] do not fit an SAE of width 12"):
        sae.encode(torch.zeros(4, 13))
    for latent in (-1, 70):
        with pytest.raises(SaeError, match=f"latent {latent} is out of range: this SAE has latents 0 to 69"):
            sae.direction(latent)
    codes = sae.encode(activations(3, 12))
    with pytest.raises(SaeError, match="codes of 71 latents"):
        sae.decode(Codes(codes.values, codes.indices, 71, codes.mean, codes.std))
    with pytest.raises(SaeError, match="lack the mean and std"):
        sae.decode(Codes(codes.values, codes.indices, 70))
    with pytest.raises(SaeError, match="statistics belong to 'dataset'"):
        Autoencoder(SaeConfig(12, 70, 5))
    with pytest.raises(SaeError, match=r"b_pre has shape \[3\], expected \[12\]"):
        Autoencoder(SaeConfig(12, 70, 5, normalisation="none"), b_pre=torch.zeros(3))
