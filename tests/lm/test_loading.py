import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import LLAMA3_ROPE, random_llama, small_config, write_folder, write_gguf
from transformers import LlamaForCausalLM

from monosem.errors import ModelError
from monosem.lm.checkpoint import load_model
from monosem.lm.packed import Packed

TEXT = Packed.pack([[5, 100, 33, 7, 250, 90, 5, 17] * 5, [1, 2, 3]])


def refused(path: Path, *said: str) -> None:
    with pytest.raises(ModelError) as error:
        load_model(path, device="cpu")
    assert all(part in str(error.value) for part in said), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tied", [True, False])
def test_gguf_and_folder_of_one_model_give_the_same_logits(tied: bool, tmp_path: Path) -> None:
    reference = random_llama(small_config(rope_parameters=LLAMA3_ROPE, tie_word_embeddings=tied))
    folder = load_model(write_folder(tmp_path / "folder", reference), device="cpu")
    file = load_model(write_gguf(tmp_path / "model.gguf", reference), device="cpu")
    assert file.config.tied == tied
    torch.testing.assert_close(file.logits(TEXT), folder.logits(TEXT), atol=1e-5, rtol=1e-5)
    assert file.tokenizer.encode("the thing") == folder.tokenizer.encode("the thing")
    assert (file.tokenizer.special, file.tokenizer.eos_ids) == (folder.tokenizer.special, folder.tokenizer.eos_ids)
    assert (folder.tokenizer.bos_id, file.tokenizer.bos_id) == (260, None), "the tokenizer.json asks for one"


def test_quantised_tensors_are_dequantised(tmp_path: Path) -> None:
    reference = random_llama(small_config(hidden_size=64, num_attention_heads=4))
    exact = load_model(write_gguf(tmp_path / "exact.gguf", reference), device="cpu")
    coarse = load_model(write_gguf(tmp_path / "coarse.gguf", reference, gguf.GGMLQuantizationType.Q8_0), device="cpu")
    assert 0 < (coarse.embed - exact.embed).abs().max() < 0.01


def test_one_file_instead_of_shards(reference: LlamaForCausalLM, small_folder: Path, tmp_path: Path) -> None:
    reference.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((small_folder / "tokenizer.json").read_bytes())
    assert torch.equal(load_model(tmp_path).logits(TEXT), load_model(small_folder).logits(TEXT))


def test_older_config_files_are_read(edited_folder: Callable[..., Path], small_folder: Path) -> None:
    folder = edited_folder(rope_parameters=None, rope_theta=500.0, rope_scaling={**LLAMA3_ROPE, "rope_theta": 500.0})
    config = load_model(folder).config
    assert config.rope_theta == 500.0
    assert config.rope_scaling is not None
    assert load_model(small_folder).config.rope_scaling is None


def test_a_missing_path(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.gguf", "nowhere.gguf: no such file or folder")
    refused(tmp_path, "not a model; expected a .gguf file")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "gpt_neox"}, "model_type 'gpt_neox' is not known"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope scaling 'yarn' is not known"),
        ({"num_hidden_layers": 5}, "model.layers.4"),
        ({"num_hidden_layers": 3}, "no place for tensor model.layers.3"),
        ({"intermediate_size": 96}, "has shape [80, 48], expected [96, 48]"),
        ({"num_key_value_heads": 4}, "6 heads cannot share 4"),
        ({"vocab_size": 200}, "tokenizer has 263 tokens but the embedding 200 rows"),
        ({"vocab_size": 9000}, "tokenizer has 263 tokens but the embedding 9000 rows"),
    ],
)
def test_a_folder_that_does_not_fit(edited_folder: Callable[..., Path], changes: dict[str, object], said: str) -> None:
    refused(edited_folder(**changes), said)


def test_a_folder_with_something_missing_or_damaged(edited_folder: Callable[..., Path]) -> None:
    folder = edited_folder()
    shard = sorted(folder.glob("*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    refused(folder, shard.name, "damaged")
    shard.unlink()
    refused(folder, shard.name, "missing")
    shard.write_bytes(whole)
    tensors = load_file(shard)
    name = sorted(tensors)[0]
    save_file({key: value for key, value in tensors.items() if key != name}, shard)
    refused(folder, name, "missing")
    shard.write_bytes(whole)
    tokenizer = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(tokenizer[:50])
    refused(folder, "tokenizer.json", "not a tokenizer.json")
    (folder / "tokenizer.json").unlink()
    refused(folder, "needs its tokenizer.json")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    refused(folder, "config.json", "num_attention_heads is missing")
    (folder / "config.json").write_text("{")
    refused(folder, "config.json", "JSON")


def test_a_gguf_file_that_is_damaged(reference: LlamaForCausalLM, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", reference)
    whole = path.read_bytes()
    for length in (0, 3, 20, 500, 5000, len(whole) - 5000):
        path.write_bytes(whole[:length])
        refused(path, "model.gguf", "GGUF" if length < 5000 else "again")
    path.write_bytes(b"GGML" + whole[4:])
    refused(path, "not a GGUF file of version 2 or 3")


def test_a_gguf_file_of_another_model(reference: LlamaForCausalLM, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", reference, architecture="gpt2")
    refused(path, "architecture 'gpt2' is not known; 'llama' is")
    path = write_gguf(tmp_path / "model.gguf", reference, pre="tekken")
    refused(path, "pre-tokenizer 'tekken' is not known", "smollm")
    path = write_gguf(tmp_path / "model.gguf", reference, leave_out="blk.2.ffn_up.weight")
    refused(path, "tensor model.layers.2.mlp.up_proj.weight is missing")
    path = write_gguf(tmp_path / "model.gguf", reference, extra={"blk.0.attn_q.bias": np.zeros(48, np.float32)})
    refused(path, "no place for tensor blk.0.attn_q.bias")


def test_an_unknown_dtype(small_folder: Path) -> None:
    with pytest.raises(ModelError, match="dtype 'int3' is not known; known: float32, bfloat16, float16"):
        load_model(small_folder, dtype="int3")
