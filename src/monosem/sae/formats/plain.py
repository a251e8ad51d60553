"""An SAE spelled out in raw units, as its neighbours write theirs: the form between our model and every format.

`a = W_enc (x - b_dec) + b_enc`, `h = sparsity(a)`, `x_hat = W_dec^T h + b_dec`; a transcoder reads x as it is and may
add `W_skip x`. Flow: `spelled_out` folds our normalisation into the weights, `assembled` makes an `Autoencoder` of
what a format held. Both are exact but for float32 rounding: sums run in float64. Knows no file.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.errors import SaeError
from monosem.sae import files
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import Normalisation, SaeConfig

SAME_NORM = 1e-3
"""Decoder rows whose norms differ by less, relatively, count as equally long: rounding to bfloat16 does that much."""
ALONE = ("relu", "jumprelu", "batchtopk")
"""Sparsities in which, outside of training, a latent's being active does not depend on other latents."""
CHUNK = 4096


@dataclass(frozen=True)
class Labels:
    """Where an SAE belongs, in our names, and what of its training no other format has a word for."""

    model: str = ""
    hook_point: str = ""
    target_hook_point: str = ""
    norm_threshold: float | None = None
    target_norm_threshold: float | None = None
    prefixes: tuple[int, ...] = ()


LABELS = tuple(field.name for field in dataclasses.fields(Labels))


@dataclass(frozen=True)
class Plain:
    """Weights that act on raw activations."""

    sparsity: str
    """One of ours."""
    k: int | None
    """None: the format does not say."""
    W_enc: Tensor
    """[n, d]"""
    b_enc: Tensor
    """[n]"""
    W_dec: Tensor
    """[n, d_out]"""
    b_dec: Tensor
    """[d_out]"""
    threshold: Tensor | None = None
    """[n], of `jumprelu` and `batchtopk`."""
    W_skip: Tensor | None = None
    """[d_out, d]"""
    centred: bool = True
    """b_dec is taken from what is read."""
    transcodes: bool = False
    layer: bool = False
    """Vectors are brought to mean 0 and standard deviation 1 on the way in, and back on the way out."""
    labels: Labels = field(default_factory=Labels)

    def reading(self, *, centred: bool) -> "Plain":
        """The same SAE with b_dec taken from its input, or not: b_enc makes up for it."""
        if centred == self.centred:
            return self
        moved = times(self.W_enc, self.b_dec)
        b_enc = self.b_enc.double() + (moved if centred else -moved)
        return dataclasses.replace(self, b_enc=b_enc.float(), centred=centred)

    def stretched(self, factors: Tensor) -> "Plain":
        """The same reconstructions from codes that are `factors [n]` times as large."""
        row = factors.float()
        return dataclasses.replace(
            self,
            W_enc=self.W_enc * row[:, None],
            b_enc=self.b_enc * row,
            W_dec=self.W_dec / row[:, None],
            threshold=None if self.threshold is None else self.threshold * row,
        )

    def with_unit_rows(self) -> "Plain":
        """The same reconstructions from decoder rows of norm 1; codes grow by what the rows lose.

        Raises:
            SaeError: rows differ in norm, and which latents are active would change with them.
        """
        lengths = Lengths.of(self.W_dec)
        if not lengths.equal and self.sparsity not in ALONE:
            raise SaeError(
                f"decoder rows with norms from {lengths.least:.4g} to {lengths.most:.4g} cannot all get norm 1: "
                f"{self.sparsity} would choose other latents; leave the rows as they are"
            )
        return self.stretched(lengths.rows)


class Lengths(NamedTuple):
    """Norms of decoder rows; those of rows that are 0 are called 1."""

    rows: Tensor
    """[n] float64"""
    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, W_dec: Tensor) -> "Lengths":
        rows = torch.cat([part.double().norm(dim=1) for part in W_dec.split(CHUNK)])
        live = rows[rows > 0]
        if not len(live):
            return cls(torch.ones_like(rows), 1.0, 1.0, 1.0)
        middle = float(live.median())
        return cls(torch.where(rows > 0, rows, middle), middle, float(live.min()), float(live.max()))

    @property
    def equal(self) -> bool:
        return self.most - self.least <= SAME_NORM * self.middle

    @property
    def unit(self) -> bool:
        return max(abs(self.most - 1), abs(self.least - 1)) <= SAME_NORM


@torch.no_grad()
def spelled_out(sae: Autoencoder) -> Plain:
    """An SAE of ours in raw units, on the CPU; its codes stay what they are."""
    config, held = sae.config, {name: tensor.cpu() for name, tensor in sae.state_dict().items()}
    scale, target_scale = float(sae.scale), float(sae.output.scale)
    shift = held["mean"].double() * scale + held["b_pre"].double()  # what is read is x * scale - shift
    b_enc, b_dec, W_skip = held["b_enc"].double(), held["b_pre"].double(), held.get("W_skip")
    if config.transcodes:
        b_enc, b_dec = b_enc - times(held["W_enc"], shift), held["b_dec"].double()
    if W_skip is not None:
        b_dec = b_dec - times(W_skip, shift)
        W_skip = W_skip * (scale / target_scale)
    threshold = sae.encoder().threshold
    return Plain(
        config.sparsity,
        config.k,
        scaled(held["W_enc"], scale),
        b_enc.float(),
        scaled(held["W_dec"], 1 / target_scale),
        (b_dec / target_scale + sae.output.mean.cpu().double()).float(),
        None if threshold is None else threshold.cpu().expand(config.n).clone(),
        W_skip,
        centred=not config.transcodes,
        transcodes=config.transcodes,
        layer=config.normalisation == "layer",
        labels=Labels(**{name: getattr(config, name) for name in LABELS}),
    )


@torch.no_grad()
def assembled(plain: Plain) -> Autoencoder:
    """Our model of it.

    Decoder rows become unit rows where that changes nothing: if all have one norm, `dataset` normalisation takes it
    for its scale and codes stay what they are; if norms differ, codes grow by them where latents are active
    independently of each other, and the rows stay as they are where they are not.

    Raises:
        SaeError: k is not known or does not fit.
    """
    if plain.k is None:
        raise SaeError("nothing says how many latents are active, which baselines are compared by; give it as k (--k)")
    k, (scale, plain) = plain.k, _unit_rows(plain.reading(centred=not plain.transcodes))
    n, d = plain.W_enc.shape
    normalisation: Normalisation = "layer" if plain.layer else "none" if scale == 1 else "dataset"
    labels = {name: getattr(plain.labels, name) for name in LABELS}
    if plain.transcodes:
        labels |= {"d_out": plain.W_dec.shape[1], "skip": plain.W_skip is not None}
    config = SaeConfig(d, n, k, plain.sparsity, normalisation, **labels)
    tensors = {"b_enc": plain.b_enc, "W_dec": scaled(plain.W_dec, scale), "mean": torch.zeros(d)}
    if plain.transcodes:
        tensors |= {"W_enc": plain.W_enc, "b_pre": torch.zeros(d), "b_dec": plain.b_dec * scale}
        tensors |= {"scale": torch.ones(()), "target_mean": torch.zeros(config.width_out)}
        tensors |= {"target_scale": torch.tensor(scale)}
    else:
        tensors |= {"W_enc": scaled(plain.W_enc, 1 / scale), "b_pre": plain.b_dec * scale}
        tensors |= {"scale": torch.tensor(scale)}
    if plain.W_skip is not None:
        tensors["W_skip"] = plain.W_skip * scale
    if plain.threshold is not None:
        # values are pre-activations after ReLU, so that a threshold below 0 is one of 0
        border = plain.threshold.clamp_min(0)
        tensors |= {"log_threshold": border.log()} if plain.sparsity == "jumprelu" else {"threshold": border[0]}
    return files.assembled(config, tensors)


def _unit_rows(plain: Plain) -> tuple[float, Plain]:
    """What a normalisation has to multiply by for unit rows, and the SAE with the rest of its norms in the encoder."""
    lengths = Lengths.of(plain.W_dec)
    if lengths.unit:
        return 1.0, plain
    if lengths.equal and (plain.transcodes or not plain.layer):
        return 1 / lengths.middle, plain
    if lengths.equal:
        return 1.0, plain.stretched(torch.full_like(lengths.rows, lengths.middle))
    if plain.sparsity in ALONE:
        # thresholds are no longer the same for all latents
        sparsity = "jumprelu" if plain.sparsity == "batchtopk" else plain.sparsity
        return 1.0, dataclasses.replace(plain.stretched(lengths.rows), sparsity=sparsity)
    return 1.0, plain


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """[rows] float64: their product, without a float64 copy of the matrix."""
    return torch.cat([part.double() @ vector.double() for part in matrix.split(CHUNK)])


def scaled(matrix: Tensor, factor: float) -> Tensor:
    """`matrix * factor`, without a copy where it is the same."""
    return matrix if factor == 1 else matrix * factor
