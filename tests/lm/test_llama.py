from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import LLAMA3_ROPE, random_llama, small_config, write_folder
from torch import Tensor
from transformers import LlamaForCausalLM

from monosem.errors import ModelError
from monosem.lm.checkpoint import load_model
from monosem.lm.hookpoints import SITES
from monosem.lm.llama import Llama
from monosem.lm.packed import Packed
from monosem.lm.protocol import LanguageModel

ALL_POINTS = [f"{layer}.{site}{suffix}" for layer in (0, 2, 3) for site in SITES for suffix in ("", ".norm")]


def sentences(lengths: tuple[int, ...] = (7, 1, 30, 7, 100, 29)) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, 264, (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture
def packed() -> Packed:
    return Packed.pack(sentences())


def each(packed: Packed) -> Iterator[tuple[Tensor, slice]]:
    for start, end in zip(packed.offsets[:-1].tolist(), packed.offsets[1:].tolist(), strict=True):
        yield packed.ids[None, start:end], slice(start, end)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"rope_parameters": LLAMA3_ROPE},
        {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True, "num_key_value_heads": 6, "head_dim": 16},
        {"num_key_value_heads": 1},
    ],
    ids=["untied", "tied", "llama3", "llama3 tied, wide heads", "one key head"],
)
@torch.no_grad()
def test_equals_transformers(changes: dict[str, object], tmp_path: Path, packed: Packed) -> None:
    reference = random_llama(small_config(**changes))
    model = load_model(write_folder(tmp_path, reference), device="cpu")
    logits = model.logits(packed)
    points = ["0.resid_pre", "1.resid_post", "3.resid_pre", "3.resid_post.norm"]
    activations = model.activations(packed, points)
    for ids, rows in each(packed):
        theirs = reference(ids, output_hidden_states=True)
        torch.testing.assert_close(logits[rows], theirs.logits[0], atol=1e-4, rtol=0)
        hidden = [theirs.hidden_states[layer][0] for layer in (0, 2, 3, 4)]
        for point, expected in zip(points, hidden, strict=True):
            torch.testing.assert_close(activations[point][rows], expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_hook_points_are_the_modules_outputs(small: Llama, reference: LlamaForCausalLM) -> None:
    packed = Packed.pack(sentences((23,)))
    layers: Any = reference.model.layers
    block, nxt = layers[1], layers[2]
    seen: dict[str, Tensor] = {}

    def keep(name: str, output: bool):
        def hook(module: object, args: tuple[Tensor, ...], kwargs: object, out: Tensor | tuple[Tensor, ...]) -> None:
            value = (out if isinstance(out, Tensor) else out[0]) if output else args[0]
            seen[name] = value.squeeze(0)

        return hook

    taps = {
        "1.resid_pre": (block.input_layernorm, False),
        "1.resid_pre.norm": (block.input_layernorm, True),
        "1.z": (block.self_attn.o_proj, False),
        "1.attn_out": (block.self_attn, True),
        "1.resid_mid": (block.post_attention_layernorm, False),
        "1.resid_mid.norm": (block.post_attention_layernorm, True),
        "1.mlp_out": (block.mlp, True),
        "1.resid_post": (nxt.input_layernorm, False),
        "1.resid_post.norm": (nxt.input_layernorm, True),
    }
    handles = [m.register_forward_hook(keep(name, out), with_kwargs=True) for name, (m, out) in taps.items()]
    reference(packed.ids[None])
    for handle in handles:
        handle.remove()
    ours = small.activations(packed, [*taps, "1.mlp_out.norm"])
    for name in taps:
        torch.testing.assert_close(ours[name], seen[name], atol=2e-5, rtol=1e-5)
    plain = seen["1.mlp_out"] / (seen["1.mlp_out"].square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(ours["1.mlp_out.norm"], plain, atol=2e-5, rtol=1e-4)


def test_a_sentence_does_not_depend_on_its_place(small: Llama) -> None:
    texts = sentences()
    packed, turned = Packed.pack(texts), Packed.pack(texts[::-1])
    x, y = (small.activations(batch, ["3.resid_post"])["3.resid_post"] for batch in (packed, turned))
    backwards = torch.cat([y[a:b] for a, b in zip(turned.offsets[:-1], turned.offsets[1:], strict=True)][::-1])
    torch.testing.assert_close(x, backwards, atol=1e-5, rtol=1e-5)


def test_a_capture_runs_nothing_behind_the_deepest_point(small: Llama, packed: Packed) -> None:
    points = ["1.resid_post", "2.z", "1.attn_out"]
    before = small.activations(packed, points)
    for name, weight in small.named_parameters():
        if name.startswith(("blocks.3", "norm", "head")) or name == "blocks.2.out":
            weight.fill_(torch.nan)
    after = small.activations(packed, points)
    assert all(torch.equal(before[point], after[point]) for point in points)
    assert small.activations(packed, ["2.attn_out"])["2.attn_out"].isnan().all()


def test_what_was_captured_is_not_overwritten_later(small: Llama, packed: Packed) -> None:
    together = small.activations(packed, ALL_POINTS)
    assert list(together) == ALL_POINTS
    for point in ALL_POINTS:
        assert torch.equal(together[point], small.activations(packed, [point])[point]), point


def spoil(x: Tensor) -> None:
    x.fill_(torch.nan)


@pytest.mark.parametrize("point", ALL_POINTS)
def test_identity_edits_change_nothing(small: Llama, packed: Packed, point: str) -> None:
    plain = small.logits(packed)
    with small.hooks({point: lambda x: x}):
        assert (small.logits(packed) - plain).abs().max() <= 1e-6
    with small.hooks({point: spoil}):
        assert torch.equal(small.logits(packed), plain), "a hook that returns None has only looked"


@pytest.mark.parametrize("point", ALL_POINTS)
def test_edits_reach_the_logits_and_the_capture(small: Llama, packed: Packed, point: str) -> None:
    with small.hooks({point: lambda x: x * 2 + 1}):
        edited = small.logits(packed)
        captured = small.activations(packed, [point])[point]
    assert not torch.allclose(edited, small.logits(packed), atol=1e-2)
    torch.testing.assert_close(captured, small.activations(packed, [point])[point] * 2 + 1, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("point", ["0.resid_pre", "2.resid_pre", "1.resid_post", "3.resid_post"])
def test_resuming_gives_the_logits(small: Llama, packed: Packed, point: str) -> None:
    activations = small.activations(packed, [point])[point]
    before = activations.clone()
    assert torch.equal(small.resume(point, activations, packed), small.logits(packed))
    with small.hooks({point: lambda x: x * 0.5, "3.resid_post.norm": lambda x: -x}):
        assert torch.equal(small.resume(point, activations, packed), small.logits(packed))
    assert torch.equal(activations, before)


def test_hooks_nest_in_order_and_end_with_their_context(small: Llama, packed: Packed) -> None:
    plain = small.activations(packed, ["1.resid_post"])["1.resid_post"]
    seen: list[Tensor] = []
    with small.hooks({"1.resid_post": lambda x: x + 1}), small.hooks({"2.resid_pre": lambda x: x * 2}):
        with small.hooks({"1.resid_post": seen.append}):
            small.logits(packed)
        small.logits(packed)
    small.logits(packed)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], (plain + 1) * 2)
    with pytest.raises(RuntimeError), small.hooks({"1.z": lambda x: x}):
        raise RuntimeError
    assert torch.equal(small.activations(packed, ["1.resid_post"])["1.resid_post"], plain)


def test_several_hook_points_at_once_and_bf16(small_folder: Path, packed: Packed) -> None:
    model = load_model(small_folder, dtype="bfloat16", device="cpu")
    exact = load_model(small_folder, device="cpu")
    x = model.activations(packed, ["1.z", "2.resid_post.norm"])
    assert {value.dtype for value in x.values()} == {torch.bfloat16}
    assert model.logits(packed).dtype == torch.float32
    y = exact.activations(packed, ["2.resid_post.norm"])["2.resid_post.norm"]
    assert (x["2.resid_post.norm"].float() - y).norm() / y.norm() < 0.03


def test_results_repeat_and_need_no_gradient(small: Llama, packed: Packed) -> None:
    language_model: LanguageModel = small
    assert torch.equal(language_model.logits(packed), language_model.logits(packed))
    assert not language_model.logits(packed).requires_grad
    x = language_model.activations(packed, ["2.z"])["2.z"]
    assert x.shape == (packed.n_tokens, 48)
    (x.clone().requires_grad_() * x).sum().backward()  # captured activations can be trained on


def test_nothing_in_nothing_out(small: Llama) -> None:
    empty = Packed.pack([])
    assert small.logits(empty).shape == (0, 264)
    assert small.activations(empty, ["3.resid_post"])["3.resid_post"].shape == (0, 48)


def test_bad_input_is_one_line(small: Llama, packed: Packed) -> None:
    def refused(call: Callable[[], object], said: str) -> None:
        with pytest.raises(ModelError) as error:
            call()
        assert said in str(error.value)
        assert "\n" not in str(error.value)

    refused(lambda: small.activations(packed, ["4.resid_post"]), "layers 0 to 3")
    refused(lambda: small.hooks({"1.resid_pots": lambda x: x}).__enter__(), "did you mean 1.resid_post?")
    refused(lambda: small.resume("1.resid_mid", torch.zeros(1, 48), packed), "not at 1.resid_mid")
    refused(lambda: small.resume("1.resid_post", torch.zeros(1, 48), packed), "expected [174, 48]")
    refused(lambda: small.logits(Packed.pack([[0] * 129])), "context of 128")
    with small.hooks({"2.mlp_out": lambda x: x[:-1]}):
        refused(lambda: small.logits(packed), "the hook at 2.mlp_out returned shape [173, 48], expected [174, 48]")
