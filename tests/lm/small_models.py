"""Small random models as real files, in the formats that monosem reads."""

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def write_tokenizer(path: Path) -> None:
    """A byte-level tokenizer with a few merges, specials as Llama has them, and a post-processor that adds BOS."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n")]
    vocab = {token: index for index, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 260)])
    tokenizer.save(str(path / "tokenizer.json"))


def small_config(**changes: Any) -> LlamaConfig:
    """A Llama of 4 layers with grouped queries and 264 tokens."""
    shape: dict[str, Any] = {
        "vocab_size": 264,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 260,
        "eos_token_id": 262,
    }
    return LlamaConfig(**(shape | changes))


def write_folder(path: Path, reference: LlamaForCausalLM) -> Path:
    """A Hugging Face folder of several shards."""
    reference.save_pretrained(path, max_shard_size="100KB")
    write_tokenizer(path)
    return path


def random_llama(config: LlamaConfig) -> LlamaForCausalLM:
    """Random weights, large enough for attention to be far from uniform."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(config).eval()
    for name, weight in model.named_parameters():
        weight.data.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return model


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    path: Path,
    reference: LlamaForCausalLM,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    architecture: str = "llama",
    pre: str = "gpt-2",
    leave_out: str = "",
    extra: dict[str, np.ndarray] | None = None,
) -> Path:
    """The same model as a GGUF file, as llama.cpp's converter lays it out: q and k interleaved, rope divisors."""
    config: Any = reference.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    _add_tokenizer(writer, path.with_name("tokenizer"), pre)
    for name, array in (_gguf_tensors(reference) | (extra or {})).items():
        if name != leave_out:
            quantised = array.ndim == 2 and array.shape[1] % 32 == 0
            chosen = kind if quantised else gguf.GGMLQuantizationType.F32
            writer.add_tensor(name, gguf.quants.quantize(array, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, pre: str) -> None:
    folder.mkdir(exist_ok=True)
    write_tokenizer(folder)
    written = json.loads((folder / "tokenizer.json").read_text())
    special = {token["id"]: token["content"] for token in written["added_tokens"]}
    tokens = {index: token for token, index in written["model"]["vocab"].items()} | special
    ordered = [tokens[index] for index in range(len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(ordered)
    writer.add_token_types([3 if index in special else 1 for index in range(len(ordered))])
    writer.add_token_merges([" ".join(pair) for pair in written["model"]["merges"]])
    writer.add_eos_token_id(262)


def _gguf_tensors(reference: LlamaForCausalLM) -> dict[str, np.ndarray]:
    config: Any = reference.config
    head_dim: int = config.head_dim or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    arrays: dict[str, np.ndarray] = {}
    for name, weight in reference.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        layer, place = re.findall(r"^(?:model\.layers\.(\d+)\.)?(.+)\.weight$", name)[0]
        if place.endswith(("q_proj", "k_proj")):
            weight = weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).reshape(weight.shape)
        arrays[(f"blk.{layer}." if layer else "") + _GGUF_NAMES[place] + ".weight"] = weight.contiguous().numpy()
    plain = 1.0 / (rope["rope_theta"] ** (torch.arange(0, head_dim, 2).float() / head_dim))
    if rope["rope_type"] == "llama3":
        arrays["rope_freqs.weight"] = (plain / reference.model.rotary_emb.inv_freq).numpy()
    return arrays
