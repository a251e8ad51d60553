"""A Llama of any shape with random weights, as a Hugging Face folder: what a dry run reads in the true model's place.

Written layer by layer, a shard each, so that no more than one is in memory, and read back by the reader that the true
files would go through.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from monosem.lm.config import Llama3Scaling, ModelConfig
from monosem.lm.tokenizer import Tokenizer

INDEX = "model.safetensors.index.json"


def write_untrained(folder: Path, config: ModelConfig, tokenizer: Tokenizer, seed: int) -> Path:
    """Write the model in bfloat16 into `folder`, which is made; the same arguments give the same bytes.

    Args:
        config: its `vocab_size` has a row for every token of the tokenizer.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    place: dict[str, str] = {}
    for number, tensors in enumerate(_shards(config, generator)):
        name = f"model-{number:05d}.safetensors"
        save_file(tensors, folder / name)
        place |= dict.fromkeys(tensors, name)
    _write_json(folder / INDEX, {"weight_map": place})
    tokenizer.save(folder / "tokenizer.json")
    _write_json(folder / "config.json", _hugging_face(config, tokenizer))
    return folder


def _shards(config: ModelConfig, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
    """The embedding with the last norm, then every layer."""
    d, f = config.d_model, config.d_ff

    def weight(*shape: int) -> Tensor:
        values = torch.empty(shape, dtype=torch.bfloat16)
        return values.normal_(0, 1 / math.sqrt(shape[1]), generator=generator)

    norm = torch.ones(d, dtype=torch.bfloat16)
    first = {"model.embed_tokens.weight": weight(config.vocab_size, d), "model.norm.weight": norm}
    yield first if config.tied else first | {"lm_head.weight": weight(config.vocab_size, d)}
    for layer in range(config.n_layers):
        tensors = {
            "input_layernorm": norm.clone(),
            "self_attn.q_proj": weight(config.z_width, d),
            "self_attn.k_proj": weight(config.kv_width, d),
            "self_attn.v_proj": weight(config.kv_width, d),
            "self_attn.o_proj": weight(d, config.z_width),
            "post_attention_layernorm": norm.clone(),
            "mlp.gate_proj": weight(f, d),
            "mlp.up_proj": weight(f, d),
            "mlp.down_proj": weight(d, f),
        }
        yield {f"model.layers.{layer}.{name}.weight": tensor for name, tensor in tensors.items()}


def _hugging_face(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, object]:
    """`config.json`, as `folder.read_folder` reads it."""
    rope: dict[str, object] = {"rope_theta": config.rope_theta}
    if isinstance(config.rope_scaling, Llama3Scaling):
        rope |= {
            "rope_type": "llama3",
            "factor": config.rope_scaling.factor,
            "low_freq_factor": config.rope_scaling.low_freq_factor,
            "high_freq_factor": config.rope_scaling.high_freq_factor,
            "original_max_position_embeddings": config.rope_scaling.original_context,
        }
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rope,
        "tie_word_embeddings": config.tied,
        "eos_token_id": list(tokenizer.eos_ids),
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
