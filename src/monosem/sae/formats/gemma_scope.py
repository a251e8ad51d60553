"""Gemma Scope: `params.npz` with `W_enc [d, n]`, `b_enc`, `W_dec [n, d]`, `b_dec`, `threshold [n]`.

JumpReLU of `x @ W_enc + b_enc` (Lieberum et al. 2024, arXiv 2408.05147, section 2): b_dec is not taken from the input.
Model, place and L0 stand in the names of the folders alone.
"""

import re
from pathlib import Path

from monosem.errors import SaeError
from monosem.sae.formats.content import read_npz
from monosem.sae.formats.plain import Labels, Plain

FILES = ("params.npz",)
SITES = {"res": "resid_post", "mlp": "mlp_out", "att": "z"}


def found(folder: Path) -> bool:
    return (folder / FILES[0]).is_file()


def read(folder: Path) -> Plain:
    """Raises SaeError: the file is damaged, or the SAE is none that our model has a counterpart of."""
    place = str(folder.resolve())
    if "transcoders" in place:
        raise SaeError(f"{folder}: a transcoder of Gemma Scope, which reads a norm's output before the norm's weights")
    tensors = read_npz(folder / FILES[0])
    tensors.only_ones(("scaling_factor",))
    W_enc = tensors.take("W_enc", None, None)
    d, n = W_enc.shape
    average = re.search(r"average_l0_(\d+)", place)
    return Plain(
        "jumprelu",
        int(average[1]) if average else None,
        W_enc.T.contiguous(),
        tensors.take("b_enc", n),
        tensors.take("W_dec", n, d),
        tensors.take("b_dec", d),
        tensors.take("threshold", n),
        centred=False,
        labels=_labels(place),
    )


def _labels(place: str) -> Labels:
    release = re.search(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att)\b", place)
    layer = re.search(r"layer_(\d+)", place)
    if not release or not layer:
        return Labels()
    size, tuned, site = release.groups()
    return Labels(f"hf:google/gemma-2-{size}{'-it' * (tuned == 'it')}", f"{layer[1]}.{SITES[site]}")
