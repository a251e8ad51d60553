"""Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`, as OpenMOSS' Language-Model-SAEs wrote them.

Weights belong to activations times sqrt(d) / their average norm. As its own loader (`SparseAutoEncoder.from_config`,
2024) does, that factor is folded first, then the decoder's norms where `sparsity_include_decoder_norm` says so, and
only then pre-activations are held against `jump_relu_threshold`, which is in units of raw activations.
"""

import dataclasses
from pathlib import Path

import torch

from monosem.sae.formats import names
from monosem.sae.formats.content import Settings, read_safetensors
from monosem.sae.formats.plain import Labels, Lengths, Plain

CONFIG = "hyperparams.json"
WEIGHTS = ("checkpoints/final.safetensors", "final.safetensors", "sae_weights.safetensors")
FILES = (CONFIG, WEIGHTS[0])


def found(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def read(folder: Path) -> Plain:
    """Raises SaeError: a file is damaged, or says something that our model has no counterpart of."""
    settings = Settings.read(folder / CONFIG)
    if settings.values.get("use_glu_encoder"):
        raise settings.refusal("use_glu_encoder", "our encoder has no gate")
    tensors = read_safetensors(
        next((folder / name for name in WEIGHTS if (folder / name).is_file()), folder / WEIGHTS[0])
    )
    d, n = settings.whole("d_model"), settings.whole("d_sae")
    W_enc = tensors.take("encoder.weight", n, d)
    n, d = W_enc.shape
    sparsity, threshold = _activation(settings)
    place, target = _places(settings)
    read_by, written_by = _factors(settings, d)
    biased = settings.values.get("use_decoder_bias", True)
    plain = Plain(
        sparsity,
        settings.whole("top_k"),
        W_enc,
        (tensors.take("encoder.bias", n).double() / read_by).float(),
        (tensors.take("decoder.weight", d, n).double() * (read_by / written_by)).float().T.contiguous(),
        (tensors.take("decoder.bias", d).double() / written_by).float() if biased else torch.zeros(d),
        centred=settings.values.get("apply_decoder_bias_to_pre_encoder", True) is not False,
        transcodes=bool(target),
        labels=Labels("hf:meta-llama/Llama-3.1-8B" if "Llama3_1-8B" in str(folder.resolve()) else "", place, target),
    )
    if plain.centred and read_by != written_by:
        raise settings.refusal("apply_decoder_bias_to_pre_encoder", "what is read and written differ in scale")
    if settings.values.get("sparsity_include_decoder_norm", True):
        plain = plain.stretched(Lengths.of(plain.W_dec).rows)
    return plain if threshold is None else dataclasses.replace(plain, threshold=torch.full((n,), threshold))


def _activation(settings: Settings) -> tuple[str, float | None]:
    """Our sparsity, and the threshold of JumpReLU."""
    name, threshold = settings.text("act_fn").lower(), settings.number("jump_relu_threshold") or 0.0
    if name == "topk" and threshold > 0:
        name = "jumprelu"  # trained as TopK, used with a threshold
    if name not in ("relu", "topk", "jumprelu"):
        raise settings.refusal("act_fn", "expected relu, topk or jumprelu")
    if threshold < 0:
        raise settings.refusal("jump_relu_threshold", "codes below 0 are expected of abstopk alone")
    return name, threshold if name == "jumprelu" else None


def _places(settings: Settings) -> tuple[str, str]:
    """Where it reads, and, of a transcoder, where it writes."""
    read_at, written_at = settings.text("hook_point_in"), settings.text("hook_point_out")
    if written_at in ("", read_at):
        return names.from_transformer_lens(read_at), ""
    target = names.from_transformer_lens(written_at)
    if not target:
        raise settings.refusal("hook_point_out", "a transcoder's output is at no hook point that monosem knows")
    return names.from_transformer_lens(read_at), target


def _factors(settings: Settings, d: int) -> tuple[float, float]:
    """What activations are multiplied by, on the way in and on the way out."""
    match settings.values.get("norm_activation"):
        case "none" | "inference" | None:
            return 1.0, 1.0
        case "dataset-wise":
            norms = settings.part("dataset_average_activation_norm")
            read_norm, written_norm = norms.number("in"), norms.number("out")
            if not read_norm or not written_norm:
                raise settings.refusal("dataset_average_activation_norm", "expected the norms `in` and `out`")
            return d**0.5 / read_norm, d**0.5 / written_norm
    raise settings.refusal("norm_activation", "each vector or batch gets a factor of its own; expected dataset-wise")
