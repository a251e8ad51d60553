"""The shape of any language model that a recipe may name, without its weights: for plans, before they are fetched."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monosem import assets
from monosem.assets.hub import HubName
from monosem.errors import ModelError
from monosem.lm.config import ModelConfig
from monosem.lm.gguf_header import read_header
from monosem.lm.json_file import read_json
from monosem.lm.known import KNOWN_MODELS, KnownModel

_NAMES = {
    "d_model": ("hidden_size", "n_embd", "dim"),
    "n_layers": ("num_hidden_layers", "n_layer", "n_layers"),
    "n_heads": ("num_attention_heads", "n_head", "n_heads"),
    "n_kv_heads": ("num_key_value_heads", "n_kv_heads", "num_attention_heads", "n_head", "n_heads"),
    "d_ff": ("intermediate_size", "n_inner"),
    "vocab_size": ("vocab_size",),
    "context_length": ("max_position_embeddings", "n_positions", "max_seq_len"),
}
"""Our word -> the keys of a `config.json` or `params.json` that may hold it."""
_GGUF = {
    "d_model": "embedding_length",
    "n_layers": "block_count",
    "n_heads": "attention.head_count",
    "n_kv_heads": "attention.head_count_kv",
    "d_ff": "feed_forward_length",
    "context_length": "context_length",
}


def describe(source: str) -> KnownModel:
    """The model that `source` names; of a model on the hub that is not known by name, `config.json` is fetched.

    Raises:
        AssetError: it cannot be had.
        ModelError: its files do not tell its shape.
    """
    for model in KNOWN_MODELS:
        if model.source == source:
            return model
    if source.startswith("hf:") and HubName.parse(source).file is None:
        path = assets.resolve(f"{source}!/config.json").path
    else:
        path = assets.resolve(source).path
    return KnownModel(source, "llama", read_shape(path))


def read_shape(path: Path) -> ModelConfig:
    """The shape of the model at `path`: a GGUF file, a folder, or its `config.json`. Raises ModelError."""
    if path.suffix == ".gguf":
        return _of_gguf(path)
    files = (
        [path]
        if path.is_file()
        else [file for name in ("config.json", "params.json") if (file := path / name).is_file()]
    )
    if not files:
        raise ModelError(f"{path}: no config.json or params.json; the shape of a model is read from it")
    raw = read_json(files[0])
    raw = raw.get("text_config", raw)  # of models that see as well
    found = {word: _first(raw, names) for word, names in _NAMES.items()}
    return _config(files[0], found, raw.get("head_dim"), bool(raw.get("tie_word_embeddings", False)))


def _of_gguf(path: Path) -> ModelConfig:
    header = read_header(path)
    architecture = header.fields.get("general.architecture")
    found: dict[str, Any] = {word: header.fields.get(f"{architecture}.{name}") for word, name in _GGUF.items()}
    embedding = header.tensors.get("token_embd.weight")
    found["vocab_size"] = embedding.shape[0] if embedding else None
    head_dim = header.fields.get(f"{architecture}.attention.key_length")
    return _config(path, found, head_dim, tied="output.weight" not in header.tensors)


def _config(path: Path, found: dict[str, Any], head_dim: Any, tied: bool) -> ModelConfig:
    if found["d_ff"] is None and found["d_model"]:
        found["d_ff"] = 4 * found["d_model"]  # GPT-2 leaves it out
    if found["context_length"] is None:
        found["context_length"] = 131_072  # Meta's params.json leaves it out
    missing = [word for word, value in found.items() if not isinstance(value, int)]
    if missing:
        raise ModelError(f"{path}: does not say {', '.join(missing)} of the model")
    width = head_dim if isinstance(head_dim, int) else found["d_model"] // found["n_heads"]
    return ModelConfig(**found, head_dim=width, tied=tied)


def _first(raw: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((raw[name] for name in names if raw.get(name) is not None), None)
