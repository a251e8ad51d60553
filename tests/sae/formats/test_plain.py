"""An SAE spelled out in raw units computes the same, and so does our model that is made of one."""

import dataclasses

import pytest
import torch
from drawn_saes import D, K, N, activations, assert_same, computed, draw_sae, ours
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.errors import SaeError
from monosem.sae.autoencoder import Normalisation
from monosem.sae.formats.plain import Labels, Lengths, Plain, assembled, spelled_out
from monosem.sae.sparsity import SPARSITIES

NORMALISATIONS = ("dataset", "none", "layer")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 999), st.sampled_from(SPARSITIES), st.sampled_from(NORMALISATIONS),
    st.sampled_from([None, D, 7]), st.booleans(),
)  # fmt: skip
def test_spelled_out_and_back(
    seed: int, sparsity: str, normalisation: Normalisation, d_out: int | None, skip: bool
) -> None:
    sae, x = draw_sae(sparsity, normalisation, seed, d_out=d_out, skip=skip and d_out is not None), activations(seed)
    plain = spelled_out(sae)
    expected = ours(sae, x)
    if not (plain.layer and plain.W_skip is not None):  # such a skip reads normalised vectors
        assert_same(computed(plain, x), expected)
    assert plain.labels == Labels("hf:an/lm", "3.resid_post", "3.mlp_out" * bool(d_out), 2410.5)
    again = assembled(plain)
    assert again.config.sparsity == sparsity
    assert_same(ours(again, x), expected)
    assert Lengths.of(again.W_dec.detach()).unit


def uneven(sparsity: str, seed: int = 0, *, layer: bool = False, spread: float = 1.0) -> Plain:
    """As another library may have trained it: decoder rows of all norms."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(N, D, generator=draw))
    threshold = 3 * torch.rand(N, generator=draw) if sparsity in ("jumprelu", "batchtopk") else None
    if sparsity == "batchtopk" and threshold is not None:
        threshold = threshold[:1].expand(N)
    return Plain(
        sparsity,
        K,
        torch.randn(N, D, generator=draw) / 4,
        torch.randn(N, generator=draw),
        rows * (0.4 + spread * torch.rand(N, 1, generator=draw)),
        4 * torch.randn(D, generator=draw),
        threshold,
        centred=seed % 2 == 0,
        layer=layer,
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 999), st.sampled_from(SPARSITIES), st.booleans())
def test_rows_of_all_norms_go_into_the_encoder_where_nothing_else_changes(
    seed: int, sparsity: str, layer: bool
) -> None:
    plain, x = uneven(sparsity, seed, layer=layer), activations(seed)
    sae, expected = assembled(plain), computed(plain, x)
    lengths = Lengths.of(plain.W_dec)
    if sparsity in ("topk", "abstopk"):  # other latents would be chosen
        assert torch.allclose(Lengths.of(sae.W_dec.detach()).rows, lengths.rows, rtol=1e-6)
    else:
        assert Lengths.of(sae.W_dec.detach()).unit
        expected = expected._replace(codes=expected.codes * lengths.rows)
        assert sae.config.sparsity == ("jumprelu" if sparsity == "batchtopk" else sparsity)
    assert_same(ours(sae, x), expected)


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("layer", [False, True])
def test_rows_of_one_norm_become_a_scale_and_codes_stay(sparsity: str, layer: bool) -> None:
    plain, x = uneven(sparsity, layer=layer, spread=0), activations()
    sae, expected = assembled(plain), computed(plain, x)
    assert sae.config.sparsity == sparsity
    assert sae.config.normalisation == ("layer" if layer else "dataset")
    assert_same(ours(sae, x), expected._replace(codes=expected.codes * 0.4) if layer else expected)


def test_dead_rows_stay_zero() -> None:
    plain = uneven("relu")
    plain.W_dec[3] = 0
    assert bool((assembled(plain).W_dec[3] == 0).all())
    assert_same(
        ours(assembled(plain), activations()), computed(plain.stretched(Lengths.of(plain.W_dec).rows), activations())
    )
    nothing = dataclasses.replace(plain, W_dec=torch.zeros(N, D))
    assert torch.equal(ours(assembled(nothing), activations()).codes, ours(assembled(nothing), activations()).codes)


def test_thresholds_below_zero_are_zero() -> None:
    plain = dataclasses.replace(uneven("jumprelu", spread=0), threshold=torch.full((N,), -2.0))
    assert_same(ours(assembled(plain), activations()), computed(plain, activations()))


def test_unit_rows_where_they_change_nothing() -> None:
    x, sae = activations(), draw_sae("topk")
    plain = spelled_out(sae).with_unit_rows()
    assert Lengths.of(plain.W_dec).unit
    expected = ours(sae, x)
    assert_same(computed(plain, x), expected._replace(codes=expected.codes / float(sae.scale)))
    with pytest.raises(SaeError, match=r"norms from 0\.4\d* to 1\.\d+ cannot all get norm 1: topk would choose other"):
        uneven("topk").with_unit_rows()


def test_k_must_be_known() -> None:
    with pytest.raises(SaeError, match=r"how many latents are active.*--k"):
        assembled(dataclasses.replace(uneven("relu"), k=None))
