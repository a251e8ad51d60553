"""GGUF files of the llama architecture: metadata, tokenizer, and weights dequantised one by one.

GGUF keeps the q and k rows of a head as interleaved pairs; they leave here in Hugging Face's two halves.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from monosem.errors import ModelError
from monosem.lm.config import ModelConfig, RopeDivisors
from monosem.lm.gguf_header import Header, StoredTensor, read_header
from monosem.lm.tokenizer import Tokenizer
from monosem.lm.weights import Checkpoint, rotary_halves

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE = "rope_freqs.weight"


def read_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file.

    Raises:
        ModelError: it is damaged, of another architecture, or has a tokenizer that is not known.
    """
    header = read_header(path)
    config = _config(path, header)
    return Checkpoint(path.stem, config, Tokenizer.from_gguf(header.fields, str(path)), _tensors(header, config))


def _config(path: Path, header: Header) -> ModelConfig:
    fields, tensors = header
    if fields.get("general.architecture") != "llama":
        raise ModelError(f"{path}: architecture {fields.get('general.architecture')!r} is not known; 'llama' is")
    if fields.get("llama.rope.scaling.type", "none") != "none":
        raise ModelError(f"{path}: rope scaling {fields['llama.rope.scaling.type']!r} is not known")
    try:
        n_heads, d_model = fields["llama.attention.head_count"], fields["llama.embedding_length"]
        return ModelConfig(
            d_model=d_model,
            n_layers=fields["llama.block_count"],
            n_heads=n_heads,
            n_kv_heads=fields.get("llama.attention.head_count_kv", n_heads),
            d_ff=fields["llama.feed_forward_length"],
            vocab_size=tensors["token_embd.weight"].shape[0],
            context_length=fields["llama.context_length"],
            head_dim=fields.get("llama.attention.key_length", d_model // n_heads),
            rope_theta=fields.get("llama.rope.freq_base", 10_000.0),
            rope_scaling=RopeDivisors(tuple(tensors[_ROPE].dequantise().tolist())) if _ROPE in tensors else None,
            norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
            tied="output.weight" not in tensors,
        )
    except KeyError as error:
        raise ModelError(f"{path}: {error.args[0]} is missing; is this a llama model?") from None


def _tensors(header: Header, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in header.tensors.items():
        if name != _ROPE:
            yield _hugging_face_name(name), _weight(name, tensor, config)


def _weight(name: str, tensor: StoredTensor, config: ModelConfig) -> Tensor:
    weight = torch.from_numpy(tensor.dequantise())
    if ".attn_q." in name:
        return rotary_halves(weight, config.n_heads)
    return rotary_halves(weight, config.n_kv_heads) if ".attn_k." in name else weight


def _hugging_face_name(name: str) -> str:
    block = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", name)
    known = _NAMES.get(block[2]) if block else None
    if block is None or known is None:
        return name
    return f"model.layers.{block[1]}.{known}.weight" if block[1] else f"{known}.weight"
