"""Transformers' models behind our protocol: against our own Llama, and each family against transformers itself."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import write_tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from monosem.errors import ModelError
from monosem.lm.generate import Sampling, collect
from monosem.lm.hookpoints import SITES
from monosem.lm.huggingface import gradient, load_model
from monosem.lm.huggingface.model import HuggingFaceModel
from monosem.lm.llama import Llama
from monosem.lm.packed import Packed
from monosem.lm.protocol import LanguageModel

POINTS = [f"{layer}.{site}{suffix}" for layer in (0, 2, 3) for site in SITES for suffix in ("", ".norm")]
PROMPTS = [[5, 6, 7], [100], list(range(40, 80)), [9, 8, 7, 6, 5, 4]]
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 9},
    "qwen2": {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2},
    "qwen3": {"num_key_value_heads": 3, "head_dim": 16},
    "gemma": {"num_key_value_heads": 1, "head_dim": 16},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 9, "attn_logit_softcapping": 2.0},
    "gemma3_text": {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 9, "query_pre_attn_scalar": 24},
    "gpt2": {"scale_attn_by_inverse_layer_idx": True},
    "gpt_neox": {},
    "gpt_neox in sequence": {"use_parallel_residual": False},
}


def write_model(path: Path, family: str, **changes: Any) -> Any:
    """A random model of the family in files; returns it as transformers has it."""
    shape = {
        "vocab_size": 264,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "max_position_embeddings": 128,
        "bos_token_id": 260,
        "eos_token_id": 262,
        "pad_token_id": 263,
    }
    config = AutoConfig.for_model(family.split()[0], **(shape | FAMILIES[family] | changes))
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, weight in model.named_parameters():
        around = 1.0 if "norm" in name and "gemma" not in family and weight.ndim == 1 and "bias" not in name else 0.0
        weight.data.normal_(around, 0.2)
    model.save_pretrained(path)
    write_tokenizer(path)
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[HuggingFaceModel, Any]:
    """A model behind the protocol, and as transformers runs it."""
    folder = tmp_path_factory.mktemp("family")
    reference = write_model(folder, request.param)
    return load_model(folder, torch.float32, "cpu"), reference


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[HuggingFaceModel, Llama]:
    """One Llama, behind the adapter and ours."""
    from monosem.lm import checkpoint

    folder = tmp_path_factory.mktemp("llama")
    write_model(folder, "llama")
    return load_model(folder, torch.float32, "cpu"), checkpoint.load_model(folder, device="cpu")


def sentences(lengths: tuple[int, ...] = (7, 1, 30, 7, 60, 29)) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, 260, (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture
def packed() -> Packed:
    return Packed.pack(sentences())


def each(packed: Packed) -> Iterator[tuple[Tensor, slice]]:
    for start, end in zip(packed.offsets[:-1].tolist(), packed.offsets[1:].tolist(), strict=True):
        yield packed.ids[None, start:end], slice(start, end)


def points_of(model: HuggingFaceModel) -> list[str]:
    return [point for point in POINTS if not (model._tree.parallel and "resid_mid" in point)]


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_packed_sentences_equal_transformers_one_by_one(pair: tuple[HuggingFaceModel, Any], packed: Packed) -> None:
    model, reference = pair
    logits = model.logits(packed)
    points = ["0.resid_pre", "1.resid_post", "3.resid_pre", "3.resid_post.norm"]
    activations = model.activations(packed, points)
    for ids, rows in each(packed):
        theirs = reference(ids, output_hidden_states=True, use_cache=False)
        same(logits[rows], theirs.logits[0])
        for point, layer in zip(points, (0, 2, 3, 4), strict=True):
            same(activations[point][rows], theirs.hidden_states[layer][0])


def ramp(x: Tensor) -> Tensor:
    """An edit that no norm undoes."""
    return x * 0.7 + torch.linspace(-1, 1, x.shape[1])


def test_every_hook_point_can_be_read_and_edited(pair: tuple[HuggingFaceModel, Any], packed: Packed) -> None:
    model, _ = pair
    plain, points = model.logits(packed), points_of(model)
    together = model.activations(packed, points)
    for point in points:
        assert torch.equal(together[point], model.activations(packed, [point])[point]), point
        with model.hooks({point: lambda x: x}):
            assert (model.logits(packed) - plain).abs().max() <= 1e-6, point
        with model.hooks({point: ramp}):
            edited = model.activations(packed, [point])[point]
            assert not torch.allclose(model.logits(packed), plain, atol=1e-3), point
        same(edited, ramp(together[point]))
    assert torch.equal(model.logits(packed), plain)


def test_what_is_added_to_the_stream_is_what_the_hook_points_say(
    pair: tuple[HuggingFaceModel, Any], packed: Packed
) -> None:
    model, _ = pair
    x = model.activations(packed, [f"1.{site}" for site in ("resid_pre", "attn_out", "mlp_out", "resid_post")])
    same(x["1.resid_pre"] + x["1.attn_out"] + x["1.mlp_out"], x["1.resid_post"])
    if not model._tree.parallel:
        same(x["1.resid_pre"] + x["1.attn_out"], model.activations(packed, ["1.resid_mid"])["1.resid_mid"])


@pytest.mark.parametrize("point", ["0.resid_pre", "2.resid_pre", "1.resid_post", "3.resid_post"])
def test_resuming_gives_the_logits(pair: tuple[HuggingFaceModel, Any], packed: Packed, point: str) -> None:
    model, _ = pair
    x = model.activations(packed, [point])[point]
    before = x.clone()
    assert torch.equal(model.resume(point, x, packed), model.logits(packed))
    with model.hooks({point: lambda x: x * 0.5, "3.resid_post.norm": lambda x: -x}):
        assert torch.equal(model.resume(point, x, packed), model.logits(packed))
    assert torch.equal(x, before)
    last = model.activations(packed, ["3.resid_post"], start=(point, x))["3.resid_post"]
    assert torch.equal(last, model.activations(packed, ["3.resid_post"])["3.resid_post"])


def without_cache(model: LanguageModel, prompt: list[int], n: int) -> list[int]:
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(model.logits(Packed.pack([ids]))[-1].argmax()))
        if ids[-1] in model.tokenizer.eos_ids:
            break
    return ids[len(prompt) :]


def test_generation_equals_the_model_without_cache_edited_or_not(pair: tuple[HuggingFaceModel, Any]) -> None:
    model, _ = pair
    settings = Sampling(max_new_tokens=16)
    plain = [without_cache(model, prompt, 16) for prompt in PROMPTS]
    assert collect(model.generate(PROMPTS, settings), len(PROMPTS)) == plain
    with model.hooks({"1.resid_post": lambda x: x + 0.5 * torch.arange(48) / 48, "2.z": lambda x: x * 0.5}):
        edited = [without_cache(model, prompt, 16) for prompt in PROMPTS]
        begun = model.generate(PROMPTS, settings)
    assert collect(begun, len(PROMPTS)) == edited, "the hooks active at the call hold to the end"
    assert edited != plain


def test_a_rows_text_does_not_depend_on_its_neighbours(pair: tuple[HuggingFaceModel, Any]) -> None:
    model, _ = pair
    settings, seeds = Sampling(max_new_tokens=12, temperature=1.5, top_p=0.9), [3, 1, 4, 1]
    together = collect(model.generate(PROMPTS, settings, seeds), len(PROMPTS))
    alone = [collect(model.generate([p], settings, [s]), 1)[0] for p, s in zip(PROMPTS, seeds, strict=True)]
    assert together == alone


def test_the_adapter_means_by_each_hook_point_what_our_llama_means(
    both: tuple[HuggingFaceModel, Llama], packed: Packed
) -> None:
    theirs, ours = both
    a, b = theirs.activations(packed, POINTS), ours.activations(packed, POINTS)
    for point in POINTS:
        same(a[point], b[point])
        with theirs.hooks({point: ramp}), ours.hooks({point: ramp}):
            same(theirs.logits(packed), ours.logits(packed))
    for point in ("0.resid_pre", "2.resid_pre", "3.resid_post"):
        same(theirs.resume(point, a[point], packed), ours.resume(point, a[point], packed))
    settings = Sampling(max_new_tokens=20)
    assert collect(theirs.generate(PROMPTS, settings), 4) == collect(ours.generate(PROMPTS, settings), 4)
    assert theirs.config == ours.config
    assert theirs.tokenizer.encode("the thing") == ours.tokenizer.encode("the thing")


def test_a_capture_runs_nothing_behind_the_deepest_point(both: tuple[HuggingFaceModel, Llama], packed: Packed) -> None:
    model = both[0]
    ran: list[str] = []
    modules = dict(model._model.named_modules())
    watched = ["model.layers.2.self_attn.o_proj", "model.layers.2.mlp", "model.layers.3", "model.norm", "lm_head"]
    handles = [modules[name].register_forward_hook(lambda *_, name=name: ran.append(name)) for name in watched]
    model.activations(packed, ["1.resid_post", "2.z"])
    assert ran == []
    model.activations(packed, ["2.attn_out"])
    assert ran == ["model.layers.2.self_attn.o_proj"]
    ran.clear()
    model.resume("2.resid_post", torch.zeros(packed.n_tokens, 48), packed)
    assert "model.layers.2.mlp" not in ran
    for handle in handles:
        handle.remove()


def test_a_hook_that_raises_leaves_nothing_behind(both: tuple[HuggingFaceModel, Llama], packed: Packed) -> None:
    model = both[0]
    plain = model.logits(packed)

    def fail(x: Tensor) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"), model.hooks({"1.z": fail}):
        model.logits(packed)
    assert torch.equal(model.logits(packed), plain)


def test_passes_in_threads_do_not_meet(both: tuple[HuggingFaceModel, Llama]) -> None:
    model = both[0]
    packs = [Packed.pack(sentences((length, 3, length))) for length in range(4, 24)]
    expected = [model.activations(pack, ["2.resid_post"])["2.resid_post"] for pack in packs]
    found: dict[int, Tensor] = {}

    def capture(first: int) -> None:
        for number in range(first, len(packs), 2):
            found[number] = model.activations(packs[number], ["2.resid_post"])["2.resid_post"]

    threads = [threading.Thread(target=capture, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[number], expected[number]) for number in range(len(packs)))


def test_hooks_see_all_tokens_in_the_order_of_the_pack(both: tuple[HuggingFaceModel, Llama], packed: Packed) -> None:
    model, seen = both[0], []
    with model.hooks({"0.resid_pre": seen.append}):
        model.activations(packed, ["0.resid_post"])
        collect(model.generate(PROMPTS[:2], Sampling(max_new_tokens=3)), 2)
    assert torch.equal(seen[0], model._model.model.embed_tokens(packed.ids))
    assert [len(x) for x in seen[1:]] == [4, 2, 2]


def test_bf16_and_nothing(tmp_path: Path, packed: Packed) -> None:
    write_model(tmp_path, "gemma3_text")
    model = load_model(tmp_path, torch.bfloat16, "cpu")
    assert model.activations(packed, ["1.z"])["1.z"].dtype == torch.bfloat16
    assert model.logits(packed).dtype == torch.float32
    empty = Packed.pack([])
    assert model.logits(empty).shape == (0, 264)
    assert model.activations(empty, ["1.z"])["1.z"].shape == (0, 96)


def test_bad_input_is_one_line(both: tuple[HuggingFaceModel, Llama], packed: Packed) -> None:
    def refused(call: Callable[[], object], said: str) -> None:
        with pytest.raises(ModelError) as error:
            call()
        assert said in str(error.value)
        assert "\n" not in str(error.value)

    model = both[0]
    refused(lambda: model.activations(packed, ["4.resid_post"]), "layers 0 to 3")
    refused(lambda: model.hooks({"1.resid_pots": lambda x: x}).__enter__(), "did you mean 1.resid_post?")
    refused(lambda: model.resume("1.resid_mid", torch.zeros(1, 48), packed), "not at 1.resid_mid")
    refused(lambda: model.resume("1.resid_post", torch.zeros(1, 48), packed), "expected [134, 48]")
    refused(lambda: model.logits(Packed.pack([[0] * 129])), "context of 128")
    refused(lambda: model.generate([[1], []], Sampling()), "prompt 1 is empty")
    with model.hooks({"2.mlp_out": lambda x: x[:-1]}):
        refused(lambda: model.logits(packed), "the hook at 2.mlp_out returned shape [133, 48], expected [134, 48]")


def test_a_parallel_block_has_no_middle(tmp_path: Path) -> None:
    write_model(tmp_path, "gpt_neox")
    model = load_model(tmp_path, torch.float32, "cpu")
    with pytest.raises(ModelError, match=r"'2.resid_mid'.* side by side; there is 2.resid_pre and 2.resid_post"):
        model.activations(Packed.pack([[1, 2]]), ["2.resid_mid"])


@pytest.mark.parametrize(
    ("family", "settings", "said"),
    [
        ("opt", {}, r"OPTForCausalLM: the hook points are not found in its blocks.*Llama, Mistral.*holds: .*fc1"),
        ("granite", {"residual_multiplier": 0.2}, r"GraniteForCausalLM: 0.resid_mid is not the sum.*self_attn.q_proj"),
        ("olmo2", {}, r"Olmo2ForCausalLM: the hook points are not found in its blocks.*post_feedforward_layernorm"),
    ],
)
def test_other_architectures_are_refused_with_their_modules(
    family: str, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    config = AutoConfig.for_model(
        family, vocab_size=264, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=6, pad_token_id=1, bos_token_id=2, eos_token_id=262, **settings,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(ModelError, match=said) as error:
        load_model(tmp_path, torch.float32, "cpu")
    assert "\n" not in str(error.value)


def spoilt(model: LanguageModel, hook_point: str, packed: Packed) -> tuple[Tensor, Tensor]:
    """Clean activations and others."""
    x = model.activations(packed, [hook_point])[hook_point]
    return x, x + 0.1 * x.std() * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "hook_point", ["0.resid_pre", "1.z", "1.mlp_out", "2.resid_mid", "2.resid_mid.norm", "3.resid_post"]
)
def test_the_gradient_of_the_divergence_is_that_of_our_own_model(
    both: tuple[HuggingFaceModel, Llama], packed: Packed, hook_point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = both
    x, x_hat = spoilt(ours, hook_point, packed)
    expected = ours.kl_gradient(hook_point, x, x_hat, packed)
    for logits in (gradient.LOGITS, 264 * 31):  # all sentences at once, and in several groups
        monkeypatch.setattr(gradient, "LOGITS", logits)
        found = theirs.kl_gradient(hook_point, x, x_hat, packed)
        assert found.kl == pytest.approx(expected.kl, rel=1e-4)
        largest = float(expected.gradient.abs().max())
        torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-3, atol=1e-4 * largest)


def test_every_family_has_the_gradient(pair: tuple[HuggingFaceModel, Any], packed: Packed) -> None:
    model, _ = pair
    x, x_hat = spoilt(model, "1.resid_post", packed)
    found = model.kl_gradient("1.resid_post", x, x_hat, packed)
    log_p, log_q = (model.resume("1.resid_post", value, packed).double().log_softmax(-1) for value in (x, x_hat))
    rows = (packed.position[1:] > 0).nonzero().squeeze(1)
    assert found.kl == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(-1)[rows].mean()), rel=1e-3)
    shift = 2e-3 * x.std() * found.gradient / found.gradient.abs().max()
    further = [model.kl_gradient("1.resid_post", x, x_hat + side * shift, packed).kl for side in (1, -1)]
    assert further[0] - further[1] == pytest.approx(float((2 * shift * found.gradient).sum()), rel=0.05)
    torch.testing.assert_close(model.logits(packed), model.logits(packed), rtol=0, atol=0)


def test_what_has_no_gradient_is_named(both: tuple[HuggingFaceModel, Llama], packed: Packed) -> None:
    model, _ = both
    x = torch.zeros(packed.n_tokens, 48)
    with pytest.raises(ModelError, match=r"1\.mlp_out\.norm: there is no gradient from here; use 1\.mlp_out"):
        model.kl_gradient("1.mlp_out.norm", x, x, packed)
    with pytest.raises(ModelError, match=r"x_hat has shape \[1, 48\], expected"):
        model.kl_gradient("1.resid_post", x, x[:1], packed)
