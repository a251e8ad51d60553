import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import LLAMA3_ROPE, LLAMA3_TOKENS, random_llama, small_config, write_meta
from transformers import LlamaForCausalLM

from monosem.errors import ModelError
from monosem.lm.checkpoint import load_model, load_tokenizer
from monosem.lm.config import Llama3Scaling
from monosem.lm.meta_params import read_params
from monosem.lm.packed import Packed

TEXT = Packed.pack([[5, 100, 33, 7, 250, 90, 5, 17] * 5, [1, 2, 3]])
PARAMS: dict[str, Any] = {
    "multiple_of": 80,
    "ffn_dim_multiplier": 0.6,
}  # 48 wide: 2/3 * 4 * 48 * 0.6 = 76, rounded up to 80


def build(tied: bool = False) -> LlamaForCausalLM:
    return random_llama(small_config(vocab_size=LLAMA3_TOKENS, tie_word_embeddings=tied))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An untied model in two shards."""
    return write_meta(tmp_path / "model", build(), shards=2, **PARAMS)


def refused(path: Path, *said: str) -> None:
    with pytest.raises(ModelError) as error:
        load_model(path, device="cpu")
    assert all(part in str(error.value) for part in said), str(error.value)
    assert "\n" not in str(error.value)


@torch.no_grad()
def test_equals_transformers_without_scaling(folder: Path) -> None:
    model = load_model(folder, device="cpu")
    assert (model.config.context_length, model.config.rope_scaling, model.name) == (8192, None, "model")
    assert (model.config.d_ff, model.config.vocab_size, model.config.tied) == (80, LLAMA3_TOKENS, False)
    ids = TEXT.ids[None, :40]
    torch.testing.assert_close(model.logits(TEXT)[:40], build()(ids).logits[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("head", ["own", "shared", "absent"])
def test_a_tied_head_is_found_however_it_is_stored(head: Any, shards: int, tmp_path: Path) -> None:
    path = write_meta(tmp_path / "tied" / "original", build(tied=True), shards=shards, head=head, **PARAMS)
    model = load_model(path, device="cpu")
    assert model.config.tied
    assert model.head is None
    assert model.name == "tied", "a folder named original/ is part of a repository"
    expected = load_model(write_meta(tmp_path / "one", build(tied=True), **PARAMS), device="cpu")
    assert torch.equal(model.logits(TEXT), expected.logits(TEXT))


def test_a_missing_vocabulary_size_is_the_tokenizers(tmp_path: Path) -> None:
    path = write_meta(tmp_path, build(), vocab_size=-1, **PARAMS)
    assert load_model(path, device="cpu").config.vocab_size == LLAMA3_TOKENS
    assert load_tokenizer(path).vocab_size == LLAMA3_TOKENS


SCALED = {"norm_eps": 1e-5, "rope_theta": 500_000.0, "use_scaled_rope": True, "vocab_size": 128_256, "n_kv_heads": 8}


@pytest.mark.parametrize(
    ("params", "d_ff", "factor"),
    [
        ({"dim": 2048, "n_layers": 16, "n_heads": 32, "ffn_dim_multiplier": 1.5, "multiple_of": 256}, 8192, 32),
        ({"dim": 3072, "n_layers": 28, "n_heads": 24, "ffn_dim_multiplier": 1.0, "multiple_of": 256}, 8192, 32),
        ({"dim": 4096, "n_layers": 32, "n_heads": 32, "ffn_dim_multiplier": 1.3, "multiple_of": 1024}, 14_336, 8),
        ({"dim": 8192, "n_layers": 80, "n_heads": 64, "ffn_dim_multiplier": 1.3, "multiple_of": 4096}, 28_672, 8),
    ],
    ids=["3.2 1B", "3.2 3B", "3.1 8B", "3.1 70B"],
)
def test_published_params_give_the_published_shapes(
    params: dict[str, float], d_ff: int, factor: int, tmp_path: Path
) -> None:
    path = tmp_path / "params.json"
    path.write_text(json.dumps(SCALED | params))
    config = read_params(path, tokens=128_256, tied=False)
    assert (config.d_ff, config.context_length, config.n_kv_heads) == (d_ff, 131_072, 8)
    assert config.head_dim == params["dim"] // params["n_heads"]
    assert config.rope_scaling == Llama3Scaling(float(factor), 1.0, 4.0, 8192)
    path.write_text(json.dumps(SCALED | params | {"rope_scaling_factor": 4}))
    assert read_params(path, tokens=128_256, tied=False).rope_scaling == Llama3Scaling(4.0, 1.0, 4.0, 8192)


def test_rotary_angles_are_those_of_transformers_to_the_last_bit(tmp_path: Path) -> None:
    for theta, factor in ((10_000.0, 8.0), (500_000.0, 8.0), (500_000.0, 32.0)):
        rope = {**LLAMA3_ROPE, "rope_theta": theta, "factor": factor, "original_max_position_embeddings": 8192}
        reference: Any = random_llama(small_config(rope_parameters=rope, head_dim=128))
        scaling = Llama3Scaling(factor, 1.0, 4.0, 8192)
        plain = 1.0 / (theta ** (torch.arange(0, 128, 2).float() / 128))
        assert torch.equal(scaling.stretch(plain), reference.model.rotary_emb.inv_freq)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vision_chunk_size": 448}, "vision_chunk_size is not known; only text models of the Llama 3 family are"),
        ({"quantization_args": {}}, "quantization_args is not known"),
        ({"vocab_size": 32_000}, "the tokenizer has 516 tokens but the embedding 32000 rows; they do not match"),
        ({"n_layers": 5}, "tensor model.layers.4.input_layernorm.weight is missing"),
        ({"n_layers": 3}, "no place for tensor model.layers.3"),
        ({"multiple_of": 96}, "model.layers.0.mlp.gate_proj.weight has shape [80, 48], expected [96, 48]"),
        ({"n_kv_heads": 4}, "6 heads cannot share 4"),
        ({"n_kv_heads": 3}, "k_proj.weight has shape [16, 48], expected [24, 48]"),
        ({"dim": "wide"}, "params.json: a value is not the number it should be"),
        ({"n_heads": 0}, "params.json: a value is not the number it should be"),
    ],
)
def test_params_that_do_not_fit(folder: Path, changes: dict[str, object], said: str) -> None:
    params = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps(params | changes))
    refused(folder, said)


def test_params_that_are_missing_or_damaged(folder: Path) -> None:
    path = folder / "params.json"
    params = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in params.items() if key != "dim"}))
    refused(folder, "params.json: dim is missing")
    path.write_text("[]")
    refused(folder, "params.json: expected a JSON object, found list")
    path.write_text("{")
    refused(folder, "params.json: cannot be read as JSON")
    path.unlink()
    refused(folder, "not a model; expected", "params.json and consolidated.*.pth (Meta)")


@pytest.mark.parametrize(("lost", "left"), [(0, 1), (1, 0)])
def test_a_missing_shard(folder: Path, lost: int, left: int) -> None:
    (folder / f"consolidated.{lost:02d}.pth").unlink()
    refused(folder, f"consolidated.{lost:02d}.pth: missing")
    (folder / f"consolidated.{left:02d}.pth").unlink()
    refused(folder, "consolidated.00.pth: missing; the folder needs every consolidated.*.pth")


def edit(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = torch.load(path, weights_only=True)
    change(tensors)
    torch.save(tensors, path)


def test_tensors_that_do_not_fit(folder: Path) -> None:
    path = folder / "consolidated.01.pth"
    whole = path.read_bytes()
    edit(path, lambda tensors: tensors.pop("layers.2.feed_forward.w2.weight"))
    refused(folder, "consolidated.01.pth: tensor layers.2.feed_forward.w2.weight is missing, expected [48, 40]")
    path.write_bytes(whole)
    edit(path, lambda tensors: tensors.update({"norm.weight": torch.ones(47)}))
    refused(folder, "consolidated.01.pth: tensor norm.weight is of shape [47], expected [48]")
    path.write_bytes(whole)
    edit(folder / "consolidated.00.pth", lambda tensors: tensors.update({"vision.weight": torch.ones(1)}))
    refused(folder, "a Llama has no place for tensor vision.weight")
    edit(folder / "consolidated.00.pth", lambda tensors: tensors.pop("layers.0.attention.wq.weight"))
    refused(folder, "consolidated.00.pth: tensor layers.0.attention.wq.weight is missing or no matrix")


def test_one_shard_of_another_shape(tmp_path: Path) -> None:
    path = write_meta(tmp_path, build(), **PARAMS)
    name = "layers.1.attention.wk.weight"
    edit(path / "consolidated.00.pth", lambda tensors: tensors.update({name: torch.ones(17, 48)}))
    refused(path, "model.layers.1.self_attn.k_proj.weight has shape [17, 48], expected [16, 48]")
    edit(path / "consolidated.00.pth", lambda tensors: tensors.update({name: torch.tensor(1.0)}))
    refused(path, "model.layers.1.self_attn.k_proj.weight has shape [], expected [16, 48]")
    edit(path / "consolidated.00.pth", lambda tensors: tensors.update({name: torch.ones(0, 48)}))
    refused(path, "consolidated.00.pth: not plain weights; expected a dictionary of tensors")


class Payload:
    """What a pickle runs when it is opened carelessly."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


def test_a_pickle_that_is_more_than_weights_is_not_run(folder: Path, tmp_path: Path) -> None:
    mark, shard = tmp_path / "mark", folder / "consolidated.00.pth"
    torch.save({"norm.weight": Payload(mark)}, shard)
    refused(folder, "consolidated.00.pth: more than plain weights, and nothing of it was run")
    shard.write_bytes(pickle.dumps({"norm.weight": Payload(mark)}))
    refused(folder, "consolidated.00.pth: damaged, or not the archive that torch.save writes")
    torch.save([torch.ones(2)], shard)
    refused(folder, "consolidated.00.pth: not plain weights; expected a dictionary of tensors")
    torch.save({"model": {"norm.weight": torch.ones(2)}}, shard)
    refused(folder, "consolidated.00.pth: not plain weights")
    assert not mark.exists()


def test_a_shard_that_is_cut_short(folder: Path) -> None:
    shard = folder / "consolidated.01.pth"
    whole = shard.read_bytes()
    for length in (0, 10, 1000, len(whole) // 2, len(whole) - 10):
        shard.write_bytes(whole[:length])
        refused(folder, "consolidated.01.pth: damaged")
