"""EleutherAI's sparsify: `cfg.json` and `sae.safetensors`, one folder for each module of the language model.

Checked against eai-sparsify 1.3.3: ReLU, then the k largest; b_dec is taken from the input of an SAE, not from a
transcoder's; nothing is normalised. The folder's name says where the SAE belongs.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from monosem.errors import SaeError
from monosem.sae.formats import names
from monosem.sae.formats.content import Settings, read_safetensors
from monosem.sae.formats.keepsake import KEY, keepsake, recalled
from monosem.sae.formats.plain import Labels, Lengths, Plain

CONFIG = "cfg.json"
WEIGHTS = "sae.safetensors"
FILES = (CONFIG, WEIGHTS)


def found(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES) and "d_in" in Settings.read(folder / CONFIG).values


def read(folder: Path) -> Plain:
    """Raises SaeError: a file is damaged, or says something that our model has no counterpart of."""
    settings, tensors = Settings.read(folder / CONFIG), read_safetensors(folder / WEIGHTS)
    if settings.values.get("activation", "topk") != "topk":
        raise settings.refusal("activation", "our SAEs choose among all latents, not within groups; expected topk")
    if settings.values.get("signed"):
        raise settings.refusal("signed", "which of its versions chose by magnitude cannot be told from the file")
    d, k = settings.whole("d_in"), settings.whole("k")
    if d is None or k is None:
        raise SaeError(f"{settings.path}: keys 'd_in' and 'k' are expected")
    n = settings.whole("num_latents") or d * (settings.whole("expansion_factor") or 32)
    transcode = bool(settings.values.get("transcode"))
    skip = tensors.take("W_skip", d, d) if "W_skip" in tensors else None
    plain = Plain(
        "topk",
        k,
        tensors.take("encoder.weight", n, d),
        tensors.take("encoder.bias", n),
        tensors.take("W_dec", n, d),
        tensors.take("b_dec", d),
        W_skip=skip,
        centred=not transcode,
        transcodes=transcode or skip is not None,
        labels=_labels(names.from_module(folder.resolve().name), transcode or skip is not None),
    )
    return recalled(plain, settings)


def written_as(plain: Plain) -> str:
    """What sparsify calls such an SAE. Raises SaeError: it has none."""
    if plain.sparsity != "topk":
        raise SaeError(
            f"sparsify has TopK SAEs alone, and this one's sparsity is {plain.sparsity}; write it as saelens"
        )
    if plain.layer:
        raise SaeError("sparsify normalises nothing, and `layer` normalisation cannot be folded; write it as saelens")
    if plain.W_dec.shape[1] != plain.W_enc.shape[1]:
        raise SaeError("sparsify's transcoders write as wide as they read; this one does not")
    return "Transcoder" if plain.transcodes else "Sae"


def write(plain: Plain, folder: Path) -> list[str]:
    """Write both files of what `written_as` knows; what to know about them."""
    n, d = plain.W_enc.shape
    config: dict[str, Any] = {
        "activation": "topk",
        "expansion_factor": max(1, n // d),
        # with it, its trainer would bring rows of another norm to 1
        "normalize_decoder": Lengths.of(plain.W_dec).unit,
        "num_latents": n,
        "k": plain.k,
        "multi_topk": False,
        "skip_connection": plain.W_skip is not None,
        "transcode": plain.transcodes,
        "d_in": d,
        KEY: keepsake(plain),
    }
    tensors = {
        "encoder.weight": plain.W_enc,
        "encoder.bias": plain.b_enc,
        "W_dec": plain.W_dec,
        "b_dec": plain.b_dec,
        **({} if plain.W_skip is None else {"W_skip": plain.W_skip}),
    }
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    module = names.module(plain.labels.target_hook_point or plain.labels.hook_point)
    return [f"sparsify finds it by its folder's name: {module}"] if module else []


def _labels(place: str, transcodes: bool) -> Labels:
    """Where an SAE of a module's output belongs; a transcoder reads what the module reads."""
    if not transcodes:
        return Labels(hook_point=place)
    layer, _, site = place.partition(".")
    return Labels(hook_point=f"{layer}.resid_mid.norm" if site == "mlp_out" else "", target_hook_point=place)
