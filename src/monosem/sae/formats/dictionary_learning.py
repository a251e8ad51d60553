"""dictionary_learning: `ae.pt`, a state dict, and `config.json`, whose `trainer.dict_class` says what it is of.

Checked against version 0.1.0. Its classes differ in names and orientation: linear layers (`encoder.weight [n, d]`,
`decoder.weight [d, n]`) or matrices (`W_enc [d, n]`, `W_dec [n, d]`), and in whether b_dec is taken from the input.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.errors import SaeError
from monosem.sae.formats import names
from monosem.sae.formats.content import Settings, Tensors, read_pickle
from monosem.sae.formats.keepsake import KEY, keepsake, recalled
from monosem.sae.formats.plain import Labels, Plain

CONFIG = "config.json"
WEIGHTS = "ae.pt"
FILES = (WEIGHTS, CONFIG)
SPARSITIES = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batchtopk",
    "MatryoshkaBatchTopKSAE": "batchtopk",
    "JumpReluAutoEncoder": "jumprelu",
}
MATRICES = ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder")
UNCENTRED = ("AutoEncoderNew", "JumpReluAutoEncoder")
BIAS = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}


def found(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def read(folder: Path) -> Plain:
    """Raises SaeError: a file is damaged, or says something that our model has no counterpart of."""
    settings, tensors = Settings.read(folder / CONFIG), read_pickle(folder / WEIGHTS)
    trainer = settings.part("trainer")
    kind = trainer.text("dict_class")
    if kind not in SPARSITIES:
        raise SaeError(
            f"{settings.path}: trainer.dict_class is {kind!r}, which computes otherwise than any SAE of monosem's; "
            f"understood: {', '.join(SPARSITIES)}"
        )
    W_enc, b_enc, W_dec = _weights(tensors, kind)
    n, d = W_enc.shape
    plain = Plain(
        SPARSITIES[kind],
        _k(trainer, tensors),
        W_enc,
        b_enc,
        W_dec,
        tensors.take(BIAS.get(kind, "b_dec"), d),
        _threshold(tensors, SPARSITIES[kind], n),
        centred=kind not in UNCENTRED,
        labels=_labels(trainer, tensors, n),
    )
    if kind == "AutoEncoder":
        plain = plain.with_unit_rows()  # as its own loader does, unless told otherwise
    return recalled(plain, settings)


def written_as(plain: Plain) -> str:
    """What dictionary_learning calls such an SAE. Raises SaeError: it has none."""
    if plain.transcodes:
        raise SaeError("dictionary_learning has no transcoders; write it as saelens or sparsify")
    if plain.layer:
        raise SaeError(
            "dictionary_learning normalises nothing, and `layer` normalisation cannot be folded; write it as saelens"
        )
    if plain.sparsity == "abstopk":
        raise SaeError("dictionary_learning knows no codes below 0, which abstopk has; write it as saelens")
    if plain.sparsity == "batchtopk" and plain.labels.prefixes:
        return "MatryoshkaBatchTopKSAE"
    # not AutoEncoder, whose loader changes the codes of decoders without unit rows
    return {"relu": "AutoEncoderNew", "topk": "AutoEncoderTopK", "batchtopk": "BatchTopKSAE"}.get(
        plain.sparsity, "JumpReluAutoEncoder"
    )


def write(plain: Plain, folder: Path) -> list[str]:
    """Write both files of what `written_as` knows; what to know about them."""
    kind = written_as(plain)
    plain = plain.reading(centred=kind not in UNCENTRED)
    (n, d), labels = plain.W_enc.shape, plain.labels
    content: dict[str, Tensor] = {BIAS.get(kind, "b_dec"): plain.b_dec}
    if kind in MATRICES:
        content |= {"W_enc": plain.W_enc.T, "b_enc": plain.b_enc, "W_dec": plain.W_dec}
    else:
        content |= {"encoder.weight": plain.W_enc, "encoder.bias": plain.b_enc, "decoder.weight": plain.W_dec.T}
    if plain.sparsity in ("topk", "batchtopk"):
        content["k"] = torch.tensor(plain.k, dtype=torch.int32)
        content["threshold"] = torch.tensor(-1.0)
    if plain.threshold is not None:
        content["threshold"] = plain.threshold if kind == "JumpReluAutoEncoder" else plain.threshold[0]
    if kind == "MatryoshkaBatchTopKSAE":
        borders = torch.tensor([0, *labels.prefixes, *([n] if labels.prefixes[-1] < n else [])])
        content["group_sizes"] = borders.diff()
    torch.save({name: tensor.detach().contiguous().clone() for name, tensor in content.items()}, folder / WEIGHTS)
    layer = labels.hook_point.partition(".")[0]
    trainer: dict[str, Any] = {
        "dict_class": kind,
        "activation_dim": d,
        "dict_size": n,
        "k": plain.k,
        "layer": int(layer) if layer.isdecimal() else None,
        "lm_name": names.hub(labels.model),
        "submodule_name": names.submodule(labels.hook_point) or None,
    }
    config = {"trainer": trainer, "buffer": {"d_submodule": d}, KEY: keepsake(plain)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return []


def _weights(tensors: Tensors, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    if kind in MATRICES:
        W_enc = tensors.take("W_enc", None, None).T.contiguous()
        return W_enc, tensors.take("b_enc", len(W_enc)), tensors.take("W_dec", *W_enc.shape)
    W_enc = tensors.take("encoder.weight", None, None)
    n, d = W_enc.shape
    return W_enc, tensors.take("encoder.bias", n), tensors.take("decoder.weight", d, n).T.contiguous()


def _k(trainer: Settings, tensors: Tensors) -> int | None:
    inside = tensors.other("k")
    if isinstance(inside, Tensor) and inside.numel() == 1:
        return int(inside)
    return trainer.whole("k") if trainer.values.get("k") is not None else trainer.whole("target_l0")


def _threshold(tensors: Tensors, sparsity: str, n: int) -> Tensor | None:
    if sparsity == "jumprelu":
        return tensors.take("threshold", n)
    if sparsity != "batchtopk":
        return None
    threshold = tensors.take("threshold")
    if threshold < 0:
        raise SaeError(f"{tensors.path}: threshold is {float(threshold)}: training ended before it was first set")
    return threshold.expand(n).clone()


def _labels(trainer: Settings, tensors: Tensors, n: int) -> Labels:
    layer, submodule = trainer.values.get("layer"), trainer.text("submodule_name")
    place = names.from_submodule(submodule)
    if not submodule and isinstance(layer, int) and layer >= 0:
        place = f"{layer}.resid_post"
    labels = Labels(names.from_hub(trainer.text("lm_name")), place)
    if "group_sizes" not in tensors:
        return labels
    sizes = tensors.take("group_sizes", None).cumsum(0).int().tolist()
    return dataclasses.replace(labels, prefixes=tuple(size for size in sizes if size < n))
