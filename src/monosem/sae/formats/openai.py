"""OpenAI's GPT-2 SAEs: one `.pt` file with `pre_bias`, `latent_bias`, `encoder.weight`, `decoder.weight [d, n]`.

Written by github.com/openai/sparse_autoencoder, `model.py`: there an SAE with TopK normalises each vector, one with
ReLU does not, and no key says so. The file does not know its place either.
"""

from pathlib import Path

from monosem.errors import SaeError
from monosem.sae.formats.content import read_pickle
from monosem.sae.formats.plain import Plain

FILES = ("one .pt file",)
OF_OTHERS = "ae.pt"


def found(folder: Path) -> bool:
    return len(_weights(folder)) == 1


def read(folder: Path) -> Plain:
    """A folder with one such file, or the file itself.

    Raises:
        SaeError: the file is damaged, or says something that our model has no counterpart of.
    """
    tensors = read_pickle(_weights(folder)[0])
    activation = tensors.other("activation") or "ReLU"
    settings = tensors.other("activation_state_dict")
    settings = settings if isinstance(settings, dict) else {}
    k, topk = settings.get("k"), activation == "TopK"
    if activation not in ("ReLU", "TopK") or settings.get("postact_fn", "ReLU") != "ReLU":
        raise SaeError(
            f"{tensors.path}: activation is {activation!r} with {settings}: expected ReLU, or TopK followed by ReLU"
        )
    if topk and not isinstance(k, int):
        raise SaeError(f"{tensors.path}: activation_state_dict.k is {k!r}, expected the number of active latents")
    W_enc = tensors.take("encoder.weight", None, None)
    n, d = W_enc.shape
    return Plain(
        "topk" if topk else "relu",
        k if topk else None,
        W_enc,
        tensors.take("latent_bias", n),
        tensors.take("decoder.weight", d, n).T.contiguous(),
        tensors.take("pre_bias", d),
        layer=topk,
    )


def _weights(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder] if folder.suffix == ".pt" else []
    return [path for path in sorted(folder.glob("*.pt")) if path.name != OF_OTHERS]
