"""SAELens: `cfg.json` and `sae_weights.safetensors`, with `W_enc [d, n]`, `b_enc`, `W_dec [n, d_out]`, `b_dec`.

Checked against sae-lens 6.54.12; configurations from before version 6, which are flat, are read as well. A BatchTopK
SAE is written as it does that itself: as a JumpReLU SAE with one threshold for all latents.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from monosem.errors import SaeError
from monosem.sae.formats import names
from monosem.sae.formats.content import Settings, Tensors, read_safetensors
from monosem.sae.formats.keepsake import KEY, keepsake, recalled
from monosem.sae.formats.plain import Labels, Lengths, Plain

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
FILES = (CONFIG, WEIGHTS)
VERSION = "6.54.12"
"""Written as the version that made the file: below 6.0.0 SAELens drops the names of model and hook."""
ARCHITECTURES = {"standard": "relu", "topk": "topk", "abstopk": "abstopk", "jumprelu": "jumprelu"}
TRAINED = {"batchtopk": "batchtopk", "matryoshka_batchtopk": "batchtopk"}
"""Checkpoints of its training, with the threshold as a number."""
RESCALED = ("topk", "abstopk", "batchtopk")
"""Sparsities that heed `rescale_acts_by_decoder_norm`."""
TRANSCODERS = {
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
AS_IT_IS = ("none", "expected_average_only_in", True)
"""The second is the identity once training is over; `True` is what it was called before."""
LAYER_NOTE = (
    "SAELens divides a vector by its std + 1e-5 and multiplies by its std, monosem does both with std + 1e-6: "
    "what is read differs by 9e-6 / std of itself, what is reconstructed by up to 1e-5 / std more"
)


def found(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def read(folder: Path) -> Plain:
    """Raises SaeError: a file is damaged, or says something that our model has no counterpart of."""
    settings, tensors = Settings.read(folder / CONFIG), read_safetensors(folder / WEIGHTS)
    architecture = _architecture(settings)
    known = ARCHITECTURES | TRAINED | TRANSCODERS
    if architecture not in known:
        raise SaeError(
            f"{settings.path}: architecture is {architecture!r}, which computes otherwise than any SAE of monosem's; "
            f"understood: {', '.join(known)}"
        )
    transcodes, sparsity = architecture in TRANSCODERS, known[architecture]
    if settings.values.get("normalize_activations") not in (None, False, *AS_IT_IS, "layer_norm"):
        raise settings.refusal("normalize_activations", "expected none, expected_average_only_in or layer_norm")
    tensors.only_ones(("scaling_factor", "finetuning_scaling_factor"))
    W_enc = tensors.take("W_enc", settings.whole("d_in"), settings.whole("d_sae"))
    d, n = W_enc.shape
    W_dec = tensors.take("W_dec", n, settings.whole("d_out") if transcodes else d)
    plain = Plain(
        sparsity,
        _k(settings, architecture),
        W_enc.T.contiguous(),
        tensors.take("b_enc", n),
        W_dec,
        tensors.take("b_dec", W_dec.shape[1]),
        _threshold(tensors, sparsity, architecture, n),
        tensors.take("W_skip", W_dec.shape[1], d) if "skip" in architecture else None,
        centred=not transcodes and settings.values.get("apply_b_dec_to_input", True) is not False,
        transcodes=transcodes,
        layer=settings.values.get("normalize_activations") == "layer_norm",
        labels=_labels(settings),
    )
    if plain.layer and plain.W_skip is not None:
        raise settings.refusal("normalize_activations", "its skip reads what is not normalised, ours what is")
    if settings.values.get("rescale_acts_by_decoder_norm") and sparsity in RESCALED:
        # every pre-activation is scaled by its decoder row's norm, and the row to norm 1, before anything is chosen
        plain = dataclasses.replace(plain.stretched(Lengths.of(plain.W_dec).rows), threshold=plain.threshold)
    return recalled(plain, settings.part("metadata"))


def written_as(plain: Plain) -> str:
    """What SAELens calls such an SAE. Raises SaeError: it has none."""
    sparsity = "jumprelu" if plain.sparsity == "batchtopk" else plain.sparsity
    if not plain.transcodes:
        return {ours: theirs for theirs, ours in ARCHITECTURES.items()}[sparsity]
    if sparsity not in ("relu", "jumprelu"):
        raise SaeError(
            f"SAELens has no {sparsity} transcoder (only relu and jumprelu ones)"
            + ("; write it as sparsify" if sparsity == "topk" else "")
        )
    if plain.layer and plain.W_skip is not None:
        raise SaeError("in SAELens a transcoder's skip reads what is not normalised; ours reads it after `layer`")
    return ("jumprelu_" if sparsity == "jumprelu" else "") + ("skip_" * (plain.W_skip is not None)) + "transcoder"


def write(plain: Plain, folder: Path) -> list[str]:
    """Write both files of what `written_as` knows; what to know about them."""
    architecture = written_as(plain)
    labels = plain.labels
    hook, target = (names.transformer_lens(name) for name in (labels.hook_point, labels.target_hook_point))
    metadata: dict[str, Any] = {
        "sae_lens_version": VERSION,
        "model_name": names.hub(labels.model),
        "hook_name": hook or None,
        "hook_head_index": None,
        KEY: keepsake(plain),
    }
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": plain.W_enc.shape[1],
        "d_sae": len(plain.W_enc),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": plain.centred,
        "normalize_activations": "layer_norm" if plain.layer else "none",
        "reshape_activations": "hook_z" if hook.endswith("hook_z") else "none",
        "metadata": metadata,
    }
    if plain.sparsity in ("topk", "abstopk"):
        config |= {"k": plain.k, "rescale_acts_by_decoder_norm": False}
    if plain.transcodes:
        config["d_out"] = plain.W_dec.shape[1]
        metadata["hook_name_out"] = target or None
    tensors = {"W_enc": plain.W_enc.T, "b_enc": plain.b_enc, "W_dec": plain.W_dec, "b_dec": plain.b_dec}
    tensors |= {} if plain.threshold is None else {"threshold": plain.threshold.clamp_min(0)}
    tensors |= {} if plain.W_skip is None else {"W_skip": plain.W_skip}
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    notes = [LAYER_NOTE] if plain.layer else []
    for ours, theirs in ((labels.hook_point, hook), (labels.target_hook_point, target)):
        if ours and not theirs:
            notes.append(f"TransformerLens has no name for {ours}: hook_name is empty")
    return notes


def _architecture(settings: Settings) -> str:
    name = settings.text("architecture") or "standard"
    activation = settings.text("activation_fn_str") or settings.text("activation_fn")
    return "topk" if name == "standard" and activation == "topk" else name


def _k(settings: Settings, architecture: str) -> int | None:
    older = settings.part("activation_fn_kwargs")
    k = settings.whole("k") if settings.values.get("k") is not None else older.whole("k")
    if architecture in ("topk", "abstopk") and k is None:
        raise SaeError(f"{settings.path}: key 'k' is missing, expected the number of active latents")
    return k


def _threshold(tensors: Tensors, sparsity: str, architecture: str, n: int) -> torch.Tensor | None:
    if sparsity not in ("jumprelu", "batchtopk"):
        return None
    return tensors.take("topk_threshold").expand(n).clone() if architecture in TRAINED else tensors.take("threshold", n)


def _labels(settings: Settings) -> Labels:
    where = settings.part("metadata") if "metadata" in settings.values else settings
    hook = where.text("hook_name") or where.text("hook_point")
    headless = where.values.get("hook_head_index") is None
    return Labels(
        names.from_hub(where.text("model_name")),
        names.from_transformer_lens(hook) if headless else "",
        names.from_transformer_lens(where.text("hook_name_out")),
    )
