"""GGUF files of architectures other than llama, as models of transformers: configuration, weights, tokenizer.

The weights' names are the `gguf` package's own table read backwards. Gemma's norms multiply by 1 + weight in
transformers, by weight in the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from torch import Tensor

from monosem.errors import ModelError
from monosem.lm.gguf_header import Header, StoredTensor, read_header
from monosem.lm.huggingface.bos import with_bos
from monosem.lm.sentencepiece import CONTROL, sentencepiece_bpe
from monosem.lm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FAMILIES = {"gemma3": "gemma3_text"}
"""Architecture in the file -> model type in transformers."""

_CONFIG = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_theta",
}
"""Field in the file, behind the architecture's name -> key of the configuration."""


def model(path: Path, dtype: torch.dtype, attention: str) -> "PreTrainedModel":
    """The model, its weights dequantised one by one.

    Raises:
        ModelError: the file is damaged, of an architecture that is not known here, or lacks a tensor.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    header = read_header(path)
    architecture = _architecture(path, header)
    stated = {key: header.fields.get(f"{architecture}.{field}") for field, key in _CONFIG.items()}
    config = AutoConfig.for_model(
        _FAMILIES[architecture],
        vocab_size=header.tensors["token_embd.weight"].shape[0],
        tie_word_embeddings="output.weight" not in header.tensors,
        **{key: value for key, value in stated.items() if value is not None},
    )
    with no_init_weights():
        empty = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    empty.tie_weights()
    _fill(path, empty, architecture, header.tensors)
    return empty


def _fill(path: Path, empty: "PreTrainedModel", architecture: str, stored: Mapping[str, StoredTensor]) -> None:
    kind = next(number for number, name in MODEL_ARCH_NAMES.items() if name == architecture)
    config: Any = empty.config
    names = get_tensor_name_map(kind, config.num_hidden_layers)
    for name, place in empty.named_parameters():  # tied weights once
        stem, _, suffix = name.rpartition(".")
        found = stored.get(f"{names.get_name(stem)}.{suffix}")
        if found is None:
            raise ModelError(f"{path}: the tensor of {name} is missing; is the download whole?")
        weight = torch.from_numpy(found.dequantise())
        _copy(path, name, weight - 1 if "norm" in name else weight, place)


def _copy(path: Path, name: str, weight: Tensor, place: Tensor) -> None:
    if weight.shape != place.shape:
        raise ModelError(f"{path}: the tensor of {name} has shape {list(weight.shape)}, expected {list(place.shape)}")
    place.data.copy_(weight)


def tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in the file.

    Raises:
        ModelError: as `model`, or its kind is not known.
    """
    header = read_header(path)
    architecture = _architecture(path, header)
    fields = header.fields
    kind = fields.get("tokenizer.ggml.model")
    if kind != "llama" or fields.get("tokenizer.ggml.add_space_prefix", True):
        raise ModelError(f"{path}: tokenizer model {kind!r} is not known here; 'llama' without a space prefix is")
    pieces, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    backend = sentencepiece_bpe(pieces, fields["tokenizer.ggml.scores"], kinds)
    special = {piece: index for index, (piece, kind) in enumerate(zip(pieces, kinds, strict=True)) if kind == CONTROL}
    eos, bos = (fields.get(f"tokenizer.ggml.{which}_token_id") for which in ("eos", "bos"))
    template = fields.get("tokenizer.chat_template")
    found = Tokenizer(backend, special, [] if eos is None else [eos], template, bos)
    return with_bos(found, _FAMILIES[architecture])


def _architecture(path: Path, header: Header) -> str:
    architecture = header.fields.get("general.architecture")
    if architecture not in _FAMILIES:
        raise ModelError(
            f"{path}: GGUF of architecture {architecture!r} is not known; known: llama, {', '.join(_FAMILIES)}; "
            "take the model's Hugging Face folder"
        )
    return str(architecture)
