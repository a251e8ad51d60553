"""Small random models as real files, in the formats that monosem reads."""

import base64
import json
import re
from pathlib import Path
from typing import Any, Literal

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


def random_llama(config: LlamaConfig, spread: float = 0.2) -> LlamaForCausalLM:
    """Random weights, large enough for attention to be far from uniform; wider models need less `spread`."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(config).eval()
    for name, weight in model.named_parameters():
        weight.data.normal_(1.0 if "norm" in name else 0.0, spread)
    return model


def interleaved(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Hugging Face's rotary halves as the pairs that GGUF and Meta keep."""
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).reshape(weight.shape).contiguous()


LLAMA3_TOKENS = 516
"""Of the vocabulary that `write_tiktoken` writes, special tokens included."""


def write_tiktoken(path: Path) -> Path:
    """A `tokenizer.model` as Meta has it: the bytes and a few tokens; 256 special tokens follow by themselves."""
    tokens = [*(bytes([byte]) for byte in range(256)), b"th", b"the", b" the", b"in"]
    lines = [base64.b64encode(token) + f" {rank}\n".encode() for rank, token in enumerate(tokens)]
    path.write_bytes(b"".join(lines))
    return path


_META_NAMES = {
    "model.embed_tokens": ("tok_embeddings", 0),
    "model.norm": ("norm", None),
    "lm_head": ("output", 0),
    "input_layernorm": ("attention_norm", None),
    "self_attn.q_proj": ("attention.wq", 0),
    "self_attn.k_proj": ("attention.wk", 0),
    "self_attn.v_proj": ("attention.wv", 0),
    "self_attn.o_proj": ("attention.wo", 1),
    "post_attention_layernorm": ("ffn_norm", None),
    "mlp.gate_proj": ("feed_forward.w1", 0),
    "mlp.up_proj": ("feed_forward.w3", 0),
    "mlp.down_proj": ("feed_forward.w2", 1),
}


def write_meta(
    path: Path,
    reference: LlamaForCausalLM,
    shards: int = 1,
    head: Literal["own", "shared", "absent"] = "own",
    embed_axis: int = 0,
    **params: Any,
) -> Path:
    """The same model as Meta lays it out, its vocabulary that of `write_tiktoken`.

    `head`: how a tied model's output weights are there. `embed_axis`: 1 is how the embedding was cut before Llama 3.
    """
    config: Any = reference.config
    path.mkdir(parents=True, exist_ok=True)
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(shards)]
    for name, weight in reference.state_dict().items():
        layer, place = re.findall(r"^(?:model\.layers\.(\d+)\.)?(.+)\.weight$", name)[0]
        if place == "lm_head" and head != "own":
            continue
        if place.endswith(("q_proj", "k_proj")):
            weight = interleaved(weight, config.head_dim)
        theirs, axis = _META_NAMES[place]
        axis = embed_axis if theirs == "tok_embeddings" else axis
        cut = [weight] * shards if axis is None else weight.chunk(shards, axis)
        for part, tensor in zip(parts, cut, strict=True):
            part[(f"layers.{layer}." if layer else "") + theirs + ".weight"] = tensor.clone()
    for number, part in enumerate(parts):
        if head == "shared":
            part["output.weight"] = part["tok_embeddings.weight"]
        torch.save(part, path / f"consolidated.{number:02d}.pth")
    written = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "vocab_size": config.vocab_size,
        "norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_parameters["rope_theta"],
        "use_scaled_rope": config.rope_parameters["rope_type"] == "llama3",
    }
    (path / "params.json").write_text(json.dumps(written | params))
    write_tiktoken(path / "tokenizer.model")
    return path


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
            weight = interleaved(weight, head_dim)
        arrays[(f"blk.{layer}." if layer else "") + _GGUF_NAMES[place] + ".weight"] = weight.contiguous().numpy()
    plain = 1.0 / (rope["rope_theta"] ** (torch.arange(0, head_dim, 2).float() / head_dim))
    if rope["rope_type"] == "llama3":
        arrays["rope_freqs.weight"] = (plain / reference.model.rotary_emb.inv_freq).numpy()
    return arrays
