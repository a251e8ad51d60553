"""The chain behind a hook point: the model's own predictions forwards, and the gradient of the KL backwards."""

import pytest
import torch
from random_model import random_llama, random_sentences
from torch import Tensor

from monosem.errors import ModelError
from monosem.lm.llama import Llama
from monosem.lm.packed import Packed
from monosem.lm.tail import Tail, head_gradient

POINTS = (
    "0.resid_pre",
    "0.resid_pre.norm",
    "0.attn_out",
    "1.z",
    "1.resid_mid",
    "1.resid_mid.norm",
    "1.mlp_out",
    "1.resid_post",
    "1.resid_post.norm",
    "2.resid_post",
    "2.resid_post.norm",
)


@pytest.fixture(scope="module")
def packed() -> Packed:
    return Packed.pack([*random_sentences(20), [5]])


@pytest.fixture(scope="module")
def exact() -> Llama:
    """The model in float64; its clean activations come from a float32 twin, for inference has no use for float64."""

    class Exact(Llama):
        def activations(self, *arguments, **named) -> dict[str, Tensor]:
            return {name: x.double() for name, x in twin.activations(*arguments, **named).items()}

    twin = random_llama()
    model = Exact(twin.config, twin.tokenizer).double()
    model.load_state_dict({name: weight.double() for name, weight in twin.state_dict().items()})
    return model


def head_of(model: Llama) -> Tensor:
    assert model.head is not None
    return model.head


def edited(model: Llama, hook_point: str, packed: Packed, size: float = 0.3) -> tuple[Tensor, Tensor]:
    """Clean activations and others."""
    x = model.activations(packed, [hook_point])[hook_point]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    return x, x + size * x.std() * noise


def plain_kl(model: Llama, hook_point: str, x: Tensor, x_hat: Tensor, packed: Packed) -> float:
    """The definition, in float64, by passes of the model under a hook."""
    log_p, log_q = (
        logits.double().log_softmax(1)
        for value in (x, x_hat)
        for logits in [logits_with(model, hook_point, value, packed)]
    )
    last = set(packed.last.tolist())
    rows = [row for row in range(packed.n_tokens) if row not in last]
    return float((log_p.exp() * (log_p - log_q)).sum(1)[rows].mean())


def logits_with(model: Llama, hook_point: str, value: Tensor, packed: Packed) -> Tensor:
    with model.hooks({hook_point: lambda _: value}):
        return model.logits(packed)


@pytest.mark.parametrize("hook_point", POINTS)
def test_it_ends_where_the_model_does(hook_point: str, packed: Packed) -> None:
    model = random_llama()
    _, x_hat = edited(model, hook_point, packed)
    found = model.unembed(Tail(model, hook_point, packed).forward(x_hat)[-1])
    expected = logits_with(model, hook_point, x_hat, packed)
    margin = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=margin)
    if hook_point in ("0.resid_pre", "1.resid_post", "2.resid_post"):
        torch.testing.assert_close(found, model.resume(hook_point, x_hat, packed), rtol=1e-5, atol=margin)


@pytest.mark.parametrize("hook_point", POINTS)
def test_the_divergence_is_its_definition(hook_point: str, packed: Packed) -> None:
    model = random_llama()
    x, x_hat = edited(model, hook_point, packed)
    found = model.kl_gradient(hook_point, x, x_hat, packed)
    assert found.kl == pytest.approx(plain_kl(model, hook_point, x, x_hat, packed), rel=1e-4)
    assert found.gradient.shape == x.shape
    same = model.kl_gradient(hook_point, x, x, packed)
    assert same.kl == 0
    assert float(same.gradient.abs().max()) == 0


@pytest.mark.parametrize("hook_point", POINTS)
def test_the_gradient_equals_finite_differences_in_float64(hook_point: str, packed: Packed, exact: Llama) -> None:
    x, x_hat = edited(exact, hook_point, packed)
    tail = Tail(exact, hook_point, packed)
    clean, values = tail.forward(x)[-1], tail.forward(x_hat)
    gradient = tail.backward(values, head_gradient(head_of(exact), clean, values[-1]).gradient)

    def kl(shift: float, direction: Tensor) -> float:
        return head_gradient(head_of(exact), clean, tail.forward(x_hat + shift * direction)[-1]).kl

    for seed in range(3):
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
        difference = (kl(1e-6, direction) - kl(-1e-6, direction)) / 2e-6
        assert float((gradient * direction).sum()) == pytest.approx(difference, rel=1e-5)


def test_the_gradient_equals_autograd_through_the_whole_chain(packed: Packed, exact: Llama) -> None:
    x, x_hat = edited(exact, "0.resid_post", packed)
    tail = Tail(exact, "0.resid_post", packed)
    x_hat.requires_grad_()
    final = x_hat
    for function in tail._chain:
        final = function(final)
    log_p = (tail.forward(x)[-1] @ head_of(exact).T).log_softmax(1)
    log_q = (final @ head_of(exact).T).log_softmax(1)
    rows = (packed.position[1:] > 0).nonzero().squeeze(1)
    (log_p.exp() * (log_p - log_q))[rows].sum(1).mean().backward()
    found = exact.kl_gradient("0.resid_post", x, x_hat.detach(), packed)
    assert x_hat.grad is not None
    torch.testing.assert_close(found.gradient.double(), x_hat.grad, rtol=1e-6, atol=1e-9)


def test_bfloat16_gives_nearly_the_same(packed: Packed) -> None:
    model, rough = random_llama(), random_llama(dtype=torch.bfloat16)
    x, x_hat = edited(model, "1.resid_post", packed)
    expected = model.kl_gradient("1.resid_post", x, x_hat, packed)
    found = rough.kl_gradient("1.resid_post", x.bfloat16(), x_hat.bfloat16(), packed)
    assert found.gradient.dtype == torch.float32
    assert torch.cosine_similarity(found.gradient.flatten(), expected.gradient.flatten(), dim=0) > 0.99


def test_a_sentence_of_one_token_predicts_nothing() -> None:
    model, packed = random_llama(), Packed.pack([[3], [4]])
    x, x_hat = edited(model, "1.resid_post", packed)
    found = model.kl_gradient("1.resid_post", x, x_hat, packed)
    assert found.kl == 0
    assert found.gradient.tolist() == torch.zeros_like(x).tolist()


def test_bad_input(packed: Packed) -> None:
    model = random_llama()
    x = torch.zeros(packed.n_tokens, 32)
    with pytest.raises(ModelError, match=r"1\.mlp_out\.norm: there is no gradient from here; use 1\.mlp_out"):
        model.kl_gradient("1.mlp_out.norm", x, x, packed)
    with pytest.raises(ModelError, match=r"x_hat has shape \[1, 32\], expected"):
        model.kl_gradient("1.resid_post", x, x[:1], packed)
    with pytest.raises(ModelError, match="the model has layers 0 to 2"):
        model.kl_gradient("7.resid_post", x, x, packed)
