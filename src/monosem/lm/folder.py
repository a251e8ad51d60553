"""Hugging Face model folders: `config.json`, safetensors in one file or in shards, `tokenizer.json`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from monosem.errors import ModelError
from monosem.lm.config import Llama3Scaling, ModelConfig, RopeScaling
from monosem.lm.json_file import read_json
from monosem.lm.tokenizer import Tokenizer
from monosem.lm.weights import Checkpoint

_INDEX = "model.safetensors.index.json"


def read_folder(path: Path) -> Checkpoint:
    """Open a Hugging Face folder of a LlamaForCausalLM.

    Raises:
        ModelError: a file is missing or damaged, or the model is not a Llama as it is known here.
    """
    raw = read_json(path / "config.json")
    config = _config(path / "config.json", raw)
    shards = _shards(path)
    tokenizer = Tokenizer.from_file(path / "tokenizer.json", _eos_ids(path, raw), _chat_template(path))
    return Checkpoint(path.name, config, tokenizer, _tensors(shards))


def _config(path: Path, raw: Mapping[str, Any]) -> ModelConfig:
    kind = raw.get("model_type")
    if kind != "llama":
        raise ModelError(f"{path}: model_type {kind!r} is not known; 'llama' is")
    for key, expected in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if raw.get(key, expected) != expected:
            raise ModelError(f"{path}: {key} is {raw[key]!r}, only {expected!r} is known")
    rope = _rope(raw)
    try:
        n_heads, d_model = raw["num_attention_heads"], raw["hidden_size"]
        return ModelConfig(
            d_model=d_model,
            n_layers=raw["num_hidden_layers"],
            n_heads=n_heads,
            n_kv_heads=raw.get("num_key_value_heads") or n_heads,
            d_ff=raw["intermediate_size"],
            vocab_size=raw["vocab_size"],
            context_length=raw["max_position_embeddings"],
            head_dim=raw.get("head_dim") or d_model // n_heads,
            rope_theta=rope.get("rope_theta", 10_000.0),
            rope_scaling=_rope_scaling(path, rope),
            norm_eps=raw["rms_norm_eps"],
            tied=raw.get("tie_word_embeddings", False),
        )
    except KeyError as error:
        raise ModelError(f"{path}: {error.args[0]} is missing") from None
    except (TypeError, ZeroDivisionError) as error:
        raise ModelError(f"{path}: a value is not the number it should be ({error})") from None


def _rope(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings, wherever the version of transformers that wrote the file put them."""
    older = {"rope_theta": raw["rope_theta"]} if "rope_theta" in raw else {}
    return older | (raw.get("rope_scaling") or {}) | (raw.get("rope_parameters") or {})


def _rope_scaling(path: Path, rope: Mapping[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ModelError(f"{path}: rope scaling {kind!r} is not known; 'llama3' is")
    return Llama3Scaling(
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_context=rope["original_max_position_embeddings"],
    )


def _shards(path: Path) -> list[Path]:
    """The safetensors files of a model, all of them there."""
    if (path / _INDEX).is_file():
        shards = [path / name for name in sorted(set(read_json(path / _INDEX).get("weight_map", {}).values()))]
    else:
        shards = [path / "model.safetensors"]
    missing = [shard for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise ModelError(
            f"{(missing or [path / _INDEX])[0]}: missing; the folder needs every *.safetensors of the model"
        )
    return shards


def _tensors(shards: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for shard in shards:
        try:
            with safe_open(shard, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                    yield name, tensors.get_tensor(name)
        except SafetensorError as error:
            raise ModelError(f"{shard}: damaged ({error}); download it again") from None


def _eos_ids(path: Path, raw: Mapping[str, Any]) -> list[int]:
    generation = path / "generation_config.json"
    eos = (read_json(generation) if generation.is_file() else raw).get("eos_token_id", raw.get("eos_token_id"))
    return eos if isinstance(eos, list) else [] if eos is None else [eos]


def _chat_template(path: Path) -> str | None:
    if (path / "chat_template.jinja").is_file():
        return (path / "chat_template.jinja").read_text(encoding="utf-8")
    settings = path / "tokenizer_config.json"
    template = read_json(settings).get("chat_template") if settings.is_file() else None
    return template if isinstance(template, str) else None
