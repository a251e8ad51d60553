"""Steering: edits against a dense computation, identity to the bit, sinks, parsing, and the context manager."""

import pytest
import torch
from random_model import HOOK_POINT, D, N, random_activations, random_llama, random_sae

from monosem.errors import RecipeError, SaeError
from monosem.lm.packed import Packed
from monosem.steering import Edit, Steering, load_sae, parse, steer

NORMALISATIONS = ("layer", "dataset", "none")


def dense_decode(sae, dense, x):
    """The definition, with every latent: W_dec^T h + b_pre, normalisation undone."""
    y = dense @ sae.W_dec.detach() + sae.b_pre.detach()
    match sae.config.normalisation:
        case "layer":
            return y * (x.std(1, keepdim=True) + 1e-6) + x.mean(1, keepdim=True)
        case "dataset":
            return y / sae.scale + sae.mean
        case _:
            return y


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("mode", ["add", "clamp", "scale", "ablate"])
@pytest.mark.parametrize("error_preserving", [True, False])
def test_edits_match_a_dense_computation(normalisation, mode, error_preserving):
    x, sae = random_activations(), random_sae(normalisation)
    before = sae.encode(x).dense()
    first, second = before.sum(0).topk(2).indices.tolist()
    after = before.clone()
    for latent, value in ((first, 3.0), (second, -1.5)):
        old = after[:, latent]
        new = {"add": old + value, "clamp": 0 * old + value, "scale": old * value, "ablate": 0 * old}
        after[:, latent] = new[mode]
    expected = dense_decode(sae, after, x) - (dense_decode(sae, before, x) - x if error_preserving else 0)
    steering = Steering(sae, [Edit(first, 3.0, mode), Edit(second, -1.5, mode)], error_preserving=error_preserving)
    torch.testing.assert_close(steering(x), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, x, atol=1e-2)


def test_edits_of_one_latent_build_on_each_other():
    x, sae = random_activations(), random_sae()
    twice = Steering(sae, [Edit(3, 2.0, "clamp"), Edit(3, 1.0, "add")])
    torch.testing.assert_close(twice(x), Steering(sae, [Edit(3, 3.0, "clamp")])(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("edits", [[], [Edit(5, 0.0, "add")], [Edit(5, 1.0, "scale")]])
def test_no_change_leaves_every_bit(dtype, edits):
    x = random_activations().to(dtype)
    steered = Steering(random_sae(), edits)(x)
    assert steered.dtype == dtype
    assert torch.equal(steered, x)


def test_replace_without_edits_is_the_reconstruction():
    x, sae = random_activations(), random_sae()
    torch.testing.assert_close(Steering(sae, [], error_preserving=False)(x), sae(x).x_hat)


@pytest.mark.parametrize("error_preserving", [True, False])
def test_sinks_pass_unchanged(error_preserving):
    x, sae = random_activations(), random_sae(norm_threshold=200.0)
    x[7] *= 100
    steered = Steering(sae, [Edit(2, 5.0)], error_preserving=error_preserving)(x)
    assert torch.equal(steered[7], x[7])
    assert not (steered == x).all(1)[torch.arange(len(x)) != 7].any()


def test_max_is_a_multiple_of_the_largest_value():
    x, sae = random_activations(), random_sae()
    maxima = torch.arange(N).float()
    twice = Steering(sae, [Edit(6, 2.0, "clamp", "max")], maxima)
    assert torch.equal(twice(x), Steering(sae, [Edit(6, 12.0, "clamp")])(x))


@pytest.mark.parametrize(
    ("text", "mode", "edit"),
    [
        ("896=20", "add", Edit(896, 20.0)),
        ("896=2max", "clamp", Edit(896, 2.0, "clamp", "max")),
        ("896=max", "add", Edit(896, 1.0, "add", "max")),
        (" 3 = -1.5 ", "add", Edit(3, -1.5)),
        ("3=0.5", "scale", Edit(3, 0.5, "scale")),
        ("12", "ablate", Edit(12, mode="ablate")),
    ],
)
def test_parse(text, mode, edit):
    assert parse(text, mode) == edit


@pytest.mark.parametrize("text", ["896", "896=", "=20", "un=20", "896=2mox", "896=20=3", "-1=2", "8.5=2"])
def test_parse_names_the_form(text):
    with pytest.raises(RecipeError, match=r"expected LATENT=VALUE, such as 896=20"):
        parse(text)


@pytest.mark.parametrize(("text", "mode"), [("3=nan", "add"), ("3=inf", "clamp"), ("3=2max", "scale")])
def test_parse_refuses_values_without_meaning(text, mode):
    with pytest.raises(SaeError):
        parse(text, mode)


def test_a_latent_out_of_range_names_the_range():
    with pytest.raises(SaeError, match=rf"latent {N} is out of range.*0 to {N - 1}"):
        Steering(random_sae(), [Edit(N, 1.0)])


def test_max_needs_an_observed_value():
    with pytest.raises(SaeError, match="no largest value is known"):
        Steering(random_sae(), [Edit(1, 1.0, unit="max")])
    with pytest.raises(SaeError, match="never fires"):
        Steering(random_sae(), [Edit(1, 1.0, unit="max")], torch.zeros(N))


def test_the_context_manager_steers_and_lets_go():
    model, sae = random_llama(), random_sae()
    packed = Packed.pack([[1, 2, 3, 4]])
    before = model.logits(packed)
    with steer(model, sae, {4: 10.0}):
        during = model.logits(packed)
    x = model.activations(packed, [HOOK_POINT])[HOOK_POINT]
    torch.testing.assert_close(during, model.resume(HOOK_POINT, x + 10 * sae.direction(4), packed))
    assert not torch.allclose(during, before)
    assert torch.equal(model.logits(packed), before)


def test_sinks_pass_unchanged_and_maxima_give_units():
    x = random_activations()
    sae = random_sae(norm_threshold=0.0)
    with steer(random_llama(), sae, [Edit(1, 1.0, unit="max")], maxima=torch.full((N,), 3.0)) as steering:
        assert steering.edits == (Edit(1, 3.0),)
        assert torch.equal(steering(x), x)


def test_an_sae_without_a_place_needs_a_hook_point():
    x, sae = random_activations(8), random_sae(hook_point="")
    with pytest.raises(SaeError, match="hook_point="), steer(random_llama(), sae, {1: 1.0}):
        pass
    with steer(random_llama(), sae, {1: 1.0}, hook_point=HOOK_POINT) as steering:
        assert steering(x).shape == (8, D)


def test_load_sae_names_a_folder_that_is_none(tmp_path):
    with pytest.raises(SaeError, match=str(tmp_path)):
        load_sae(tmp_path)


def test_codes_that_are_known_are_not_computed_again():
    x, sae = random_activations(), random_sae("layer")
    steering = Steering(sae, [Edit(3, 2.0, "clamp")])
    expected = steering(x)
    codes = sae.encode(x)
    sae.W_enc.data.zero_()
    assert torch.equal(steering(x, codes), expected)
    assert not torch.equal(steering(x), expected)
