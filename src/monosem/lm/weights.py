"""A checkpoint as its reader hands it over, and how its tensors come into a `Llama`.

Tensors carry Hugging Face's names; q, k, v and gate, up are copied into the fused weights of a block.
"""

from collections.abc import Iterator
from typing import NamedTuple, cast

from torch import Tensor

from monosem.errors import ModelError
from monosem.lm.config import ModelConfig
from monosem.lm.llama import Block, Llama
from monosem.lm.tokenizer import Tokenizer

_HEAD = "lm_head.weight"


class Checkpoint(NamedTuple):
    """A model's files, opened."""

    name: str
    config: ModelConfig
    tokenizer: Tokenizer
    tensors: Iterator[tuple[str, Tensor]]
    """Names and rotary layout as in Hugging Face's Llama: `model.layers.0.self_attn.q_proj.weight [out, in]`."""


def rotary_halves(weight: Tensor, n_heads: int) -> Tensor:
    """Put interleaved rotary pairs into two halves, within each head's rows of `weight [heads * head_dim, d]`.

    GGUF files and Meta's keep the q and k rows of a head as pairs.
    """
    if weight.dim() != 2 or weight.shape[0] % (2 * n_heads):
        return weight  # refused by its shape
    return weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).reshape(weight.shape)


def fill(model: Llama, tensors: Iterator[tuple[str, Tensor]], source: str) -> None:
    """Copy `tensors`, one at a time, into `model`.

    Raises:
        ModelError: a tensor is unknown, missing, or of the wrong shape; `source` is named.
    """
    places = _places(model)
    for name, tensor in tensors:
        if name.endswith("rotary_emb.inv_freq") or (name == _HEAD and model.head is None):
            continue  # computed, or the embedding once more
        place = places.pop(name, None)
        if place is None:
            raise ModelError(f"{source}: a Llama has no place for tensor {name} (or it is there twice)")
        if tensor.shape != place.shape:
            raise ModelError(f"{source}: tensor {name} has shape {list(tensor.shape)}, expected {list(place.shape)}")
        place.copy_(tensor)
        del tensor  # before the next one is made
    if places:
        raise ModelError(
            f"{source}: tensor {next(iter(places))} is missing, {len(places)} in all; is the download whole?"
        )


def _places(model: Llama) -> dict[str, Tensor]:
    """Where each named tensor goes, as views of the model's weights."""
    places: dict[str, Tensor] = {"model.embed_tokens.weight": model.embed.data, "model.norm.weight": model.norm.data}
    if model.head is not None:
        places[_HEAD] = model.head.data
    config = model.config
    for layer, module in enumerate(model.blocks):
        block = cast(Block, module)
        q, k, v = block.qkv.data.split([config.z_width, config.kv_width, config.kv_width])
        gate, up = block.gate_up.data.chunk(2)
        named = {
            "input_layernorm": block.attn_norm.data,
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": block.out.data,
            "post_attention_layernorm": block.mlp_norm.data,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.down.data,
        }
        places |= {f"model.layers.{layer}.{name}.weight": place for name, place in named.items()}
    return places
