"""An SAE on disk: a folder of `sae.safetensors` and `cfg.json`, that appears whole or not at all.

`cfg.json`: schema version, configuration, metadata (free: how it was trained). Tensors: `W_enc [n, d]`, `b_enc [n]`,
`W_dec [n, d]`, `b_pre [d]`; with `dataset` normalisation `mean [d]`, `scale []`; `log_threshold [n]` of a JumpReLU,
`threshold []` of a BatchTopK SAE; all float32. A transcoder has `W_dec [n, d_out]`, `b_dec [d_out]`, unless nothing is
normalised `target_mean [d_out]` and `target_scale []`, with a skip `W_skip [d_out, d]`.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from monosem.atomic import atomic_folder
from monosem.errors import SaeError
from monosem.sae.autoencoder import BY_LATENT, Autoencoder
from monosem.sae.config import SaeConfig
from monosem.sae.exchange import ALONE, Exchange
from monosem.sae.initialise import Statistics

SCHEMA = 1
WEIGHTS = "sae.safetensors"
CONFIG = "cfg.json"
TRANSCODER_KEYS = ("d_out", "target_hook_point", "target_norm_threshold", "skip")
"""Of the configuration; an autoencoder's file leaves them out."""
OPTIONAL = ("log_threshold", "threshold", "b_dec", "W_skip")


def save(sae: Autoencoder, folder: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write `sae` into `folder`, replacing one that is there; `metadata` must be JSON."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sae.state_dict().items()}
    if sae.config.normalisation != "dataset":
        del tensors["mean"], tensors["scale"]
    if sae.config.transcodes and not sae.config.normalised_target:
        del tensors["target_mean"], tensors["target_scale"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / WEIGHTS)
        write_config(sae.config, temporary, metadata)


def write_config(config: SaeConfig, folder: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the configuration of an SAE into `folder`."""
    shape = dataclasses.asdict(config)
    content = {
        "schema_version": SCHEMA,
        "config": {key: value for key, value in shape.items() if config.transcodes or key not in TRANSCODER_KEYS},
        "metadata": dict(metadata or {}),
    }
    (folder / CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load(folder: Path, device: str | torch.device = "cpu", exchange: Exchange = ALONE) -> Autoencoder:
    """Read an SAE that `save` wrote.

    Args:
        exchange: with the processes that hold the other latents; only this one's are read.

    Raises:
        SaeError: a file is missing or damaged, or a key or shape is not what the configuration says.
    """
    config = read_config(folder)
    return assembled(config, _read_tensors(folder / WEIGHTS, config, exchange), exchange).to(device)


def assembled(config: SaeConfig, tensors: dict[str, Tensor], exchange: Exchange = ALONE) -> Autoencoder:
    """The SAE that these tensors make, which are named as in its file."""
    statistics = None
    if config.normalisation == "dataset":
        statistics = Statistics(tensors["mean"], float(tensors["scale"]))
    target = None
    if config.normalised_target:
        target = Statistics(tensors["target_mean"], float(tensors["target_scale"]))
    sae = Autoencoder(config, statistics=statistics, b_pre=tensors["b_pre"], target=target, exchange=exchange)
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec", *OPTIONAL):
            if name in tensors:
                getattr(sae, name).copy_(tensors[name])
    return sae


def read_config(folder: Path) -> SaeConfig:
    """The configuration of the SAE in `folder`, without its weights.

    Raises:
        SaeError: as `load`.
    """
    content = _read_json(folder / CONFIG)
    path = folder / CONFIG
    if content.get("schema_version") != SCHEMA:
        raise SaeError(f"{path}: schema_version is {content.get('schema_version')!r}, expected {SCHEMA}")
    known = {field.name for field in dataclasses.fields(SaeConfig)}
    given = content.get("config")
    if not isinstance(given, dict) or not {"d", "n", "k"} <= set(given) <= known:
        raise SaeError(f"{path}: key 'config' must hold d, n, k and none but {', '.join(sorted(known))}")
    try:
        return SaeConfig(**{**given, "prefixes": tuple(given.get("prefixes", ()))})
    except (SaeError, TypeError) as error:
        raise SaeError(f"{path}: {error}") from None


def read_metadata(folder: Path) -> dict[str, Any]:
    """The metadata that was saved beside the weights.

    Raises:
        SaeError: the file is missing or damaged.
    """
    return dict(_read_json(folder / CONFIG).get("metadata", {}))


def own_rows(file: Any, name: str, n: int, exchange: Exchange, by_latent: bool) -> Tensor:
    """A tensor of an open safetensors file; of one that is `by_latent`, the rows of this process's latents."""
    if exchange.alone or not by_latent:
        return file.get_tensor(name)
    own = exchange.latents(n)
    return file.get_slice(name)[own.start : own.stop]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SaeError(f"{path}: no such file; give the folder of an SAE, with {CONFIG} and {WEIGHTS}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SaeError(f"{path}: not JSON ({error}); copy the folder again") from None
    if not isinstance(content, dict):
        raise SaeError(f"{path}: expected a JSON object; copy the folder again")
    return content


def _read_tensors(path: Path, config: SaeConfig, exchange: Exchange) -> dict[str, Tensor]:
    shapes = _shapes(config)
    tensors = {}
    try:
        with safe_open(path, framework="pt") as file:
            missing = shapes.keys() - file.keys()
            if missing:
                raise SaeError(f"{path}: key {min(missing)!r} is missing, expected shape {shapes[min(missing)]}")
            for name, shape in shapes.items():
                found = file.get_slice(name).get_shape()
                if found != shape:
                    raise SaeError(f"{path}: key {name!r} has shape {found}, expected {shape}")
                tensors[name] = own_rows(file, name, config.n, exchange, name in BY_LATENT)
    except FileNotFoundError:
        raise SaeError(f"{path}: no such file; give the folder of an SAE, with {CONFIG} and {WEIGHTS}") from None
    except SafetensorError as error:
        raise SaeError(f"{path}: damaged ({error}); copy the folder again") from None
    return tensors


def _shapes(config: SaeConfig) -> dict[str, list[int]]:
    """The tensors of an SAE's file."""
    d, n, out = config.d, config.n, config.width_out
    shapes: dict[str, list[int]] = {"W_enc": [n, d], "b_enc": [n], "W_dec": [n, out], "b_pre": [d]}
    if config.normalisation == "dataset":
        shapes |= {"mean": [d], "scale": []}
    if config.sparsity == "jumprelu":
        shapes["log_threshold"] = [n]
    if config.sparsity == "batchtopk":
        shapes["threshold"] = []
    if config.transcodes:
        shapes["b_dec"] = [out]
    if config.normalised_target:
        shapes |= {"target_mean": [out], "target_scale": []}
    if config.skip:
        shapes["W_skip"] = [out, d]
    return shapes
