"""`params.json` of Meta's checkpoints: what it says, and what Meta's code takes for granted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monosem.errors import ModelError
from monosem.lm.config import Llama3Scaling, ModelConfig
from monosem.lm.json_file import read_json

_KNOWN = {
    "dim",
    "n_layers",
    "n_heads",
    "n_kv_heads",
    "vocab_size",
    "multiple_of",
    "ffn_dim_multiplier",
    "norm_eps",
    "rope_theta",
    "use_scaled_rope",
    "rope_scaling_factor",
    "max_batch_size",
    "max_seq_len",
}

_ORIGINAL_CONTEXT = 8192
_STRETCHED_CONTEXT = 131_072

_FACTOR = 8.0
_FACTOR_BY_SHAPE = {(2048, 16): 32.0, (3072, 28): 32.0}
"""(dim, n_layers) of Llama 3.2 1B and 3B."""


def read_params(path: Path, tokens: int, tied: bool) -> ModelConfig:
    """Read `params.json` for a tokenizer of `tokens` tokens; `tied` is what the weights show.

    Raises:
        ModelError: it is missing or damaged, describes more than a plain Llama, or another vocabulary.
    """
    raw = read_json(path)
    unknown = sorted(raw.keys() - _KNOWN)
    if unknown:
        raise ModelError(f"{path}: {unknown[0]} is not known; only text models of the Llama 3 family are")
    try:
        return _config(path, raw, tokens, tied)
    except KeyError as error:
        raise ModelError(f"{path}: {error.args[0]} is missing") from None
    except (TypeError, ZeroDivisionError) as error:
        raise ModelError(f"{path}: a value is not the number it should be ({error})") from None


def _config(path: Path, raw: Mapping[str, Any], tokens: int, tied: bool) -> ModelConfig:
    rows = raw.get("vocab_size", -1)
    if rows not in (-1, tokens):  # -1: as many as the tokenizer has
        raise ModelError(f"{path}: the tokenizer has {tokens} tokens but the embedding {rows} rows; they do not match")
    scaled = raw.get("use_scaled_rope", False)
    return ModelConfig(
        d_model=raw["dim"],
        n_layers=raw["n_layers"],
        n_heads=raw["n_heads"],
        n_kv_heads=raw.get("n_kv_heads") or raw["n_heads"],
        d_ff=_d_ff(raw),
        vocab_size=tokens,
        context_length=_STRETCHED_CONTEXT if scaled else _ORIGINAL_CONTEXT,
        head_dim=raw["dim"] // raw["n_heads"],
        rope_theta=raw.get("rope_theta", 500_000.0),
        rope_scaling=_scaling(raw) if scaled else None,
        norm_eps=raw.get("norm_eps", 1e-5),
        tied=tied,
    )


def _d_ff(raw: Mapping[str, Any]) -> int:
    """Two thirds of four times the width, multiplied, then rounded up (`llama_models`, model.py, `FeedForward`)."""
    width = int(2 * (4 * raw["dim"]) / 3)
    if raw.get("ffn_dim_multiplier") is not None:
        width = int(raw["ffn_dim_multiplier"] * width)
    multiple = raw.get("multiple_of", 256)
    return multiple * -(-width // multiple)


def _scaling(raw: Mapping[str, Any]) -> Llama3Scaling:
    """The constants of Meta's `apply_scaling`, except for one of them.

    Its factor is 8 for every model, which is not how Llama 3.2 1B and 3B were trained: 32, as their Hugging Face
    configurations say and Meta confirms (llama-models, issues 166 and 241). Their `params.json` does not tell; their
    shape does. `rope_scaling_factor`, where given, decides.
    """
    factor = raw.get("rope_scaling_factor") or _FACTOR_BY_SHAPE.get((raw["dim"], raw["n_layers"]), _FACTOR)
    return Llama3Scaling(
        factor=float(factor), low_freq_factor=1.0, high_freq_factor=4.0, original_context=_ORIGINAL_CONTEXT
    )
