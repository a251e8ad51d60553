"""The sparse autoencoder: raw activations to codes and back.

`z = normalise(x) - b_pre`, `a = W_enc z + b_enc`, `h = sparsity(a)`, `x_hat = denormalise(W_dec^T h + b_pre)`. A
transcoder has another hook point's activations for a target, `denormalise(W_dec^T h + W_skip z + b_dec)`, with the
target's own statistics. The normalisation belongs to the SAE, so callers only ever see raw activations. Gradients are
not recorded here: the training step computes them explicitly.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from monosem.errors import SaeError
from monosem.kernels import Pattern, Workspace, choose
from monosem.sae.codes import Codes, padded
from monosem.sae.config import Normalisation, SaeConfig
from monosem.sae.exchange import ALONE, Exchange
from monosem.sae.initialise import Statistics, block_orthogonal
from monosem.sae.sparsity import Encoder, Selection, exceeded, make_sparsity

__all__ = ["Autoencoder", "Normalisation", "Rebuilt", "Reconstruction", "SaeConfig"]

LAYER_EPS = 1e-6
START_ROWS = 256
SMALLEST_START = 1e-3
BY_LATENT = ("W_enc", "b_enc", "W_dec", "log_threshold")
"""Parameters with one row for each latent."""


class Reconstruction(NamedTuple):
    """What an SAE makes of activations."""

    x_hat: Tensor
    """[B, d_out] float32, raw units."""
    codes: Codes


class Rebuilt(NamedTuple):
    """Activations as an SAE rebuilds them."""

    x_hat: Tensor
    """[B, d_out] float32, raw units."""
    active: int
    """Active entries of all codes; of those this process has, where latents are spread over several."""


class Standardised(NamedTuple):
    """Activations in the SAE's space, with what undoes `layer` normalisation."""

    y: Tensor
    mean: Tensor | None
    std: Tensor | None


class Normalised(NamedTuple):
    """Activations in the SAE's space, centred by `b_pre`, with what undoes `layer` normalisation."""

    z: Tensor
    mean: Tensor | None
    std: Tensor | None


class Units(NamedTuple):
    """What brings reconstructions to raw units: `y / scale + mean`."""

    mean: Tensor
    """[d_out]"""
    scale: Tensor
    """[]"""


class Autoencoder(nn.Module):
    """A sparse autoencoder over raw activations, or a transcoder between those of two hook points.

    Args:
        config: its shape.
        generator: decides the initial dictionary: block-orthogonal unit rows, the encoder parallel to the decoder
            (W_enc = encoder_norm * W_dec, both [n, d]), no biases. A transcoder's two spaces are not the same, so its
            encoder and decoder are drawn apart; W_skip is 0. Without one the weights are left unset.
        statistics: of the store; needed by and only by `dataset` normalisation.
        threshold: start of every latent's threshold, for `jumprelu`. None: `start_thresholds` sets it.
        encoder_norm: norm of the encoder's rows at the start. The k chosen rows overlap, so that a smaller one than the
            decoder's overshoots less.
        b_pre: [d] start of the shared bias, in normalised space (the mean or the geometric median of normalised
            activations; with `dataset`, zero is the store's mean). None: zero.
        target: statistics of a transcoder's target, which is brought to E|x|^2 = d_out unless normalisation is `none`:
            with `layer` too, because a vector's own mean and std are not known where it is to be predicted.
        exchange: with other processes, each of which holds some of the latents: `config` says what all are together,
            the parameters have the rows of this one's. `reconstruct` and training then are calls of all of them.

    Raises:
        SaeError: statistics are missing or not wanted, or they or b_pre have another width.
    """

    mean: Tensor
    scale: Tensor
    threshold: Tensor | None
    target_mean: Tensor | None
    target_scale: Tensor | None

    def __init__(
        self,
        config: SaeConfig,
        generator: torch.Generator | None = None,
        statistics: Statistics | None = None,
        b_pre: Tensor | None = None,
        encoder_norm: float = 1.0,
        threshold: float | None = 0.1,
        target: Statistics | None = None,
        exchange: Exchange = ALONE,
    ) -> None:
        super().__init__()
        _check_statistics(config, statistics, b_pre, target)
        self.config, self.exchange = config, exchange
        self.sparsity = make_sparsity(config.sparsity, config.k, exchange=exchange)
        own = exchange.latents(config.n)
        dictionary = _dictionary(config.n, config.d, generator, own)
        self.W_enc = nn.Parameter(dictionary * encoder_norm)
        self.b_enc = nn.Parameter(torch.zeros(len(own)))
        if config.transcodes:
            dictionary = _dictionary(config.n, config.width_out, generator, own)
        self.W_dec = nn.Parameter(dictionary)
        self.b_pre = nn.Parameter(torch.zeros(config.d) if b_pre is None else b_pre.detach().float().clone())
        self.log_threshold = None
        if config.sparsity == "jumprelu":
            self.log_threshold = nn.Parameter(
                torch.full((len(own),), torch.nan if threshold is None else threshold).log()
            )
        self.b_dec = nn.Parameter(torch.zeros(config.width_out)) if config.transcodes else None
        # zero at the start, as in Paulo et al. (2025), arXiv 2501.18823: the skip takes what is linear from there on
        self.W_skip = nn.Parameter(torch.zeros(config.width_out, config.d)) if config.skip else None
        # batchtopk: what a pre-activation must exceed outside of training; follows the batches
        self.register_buffer("threshold", torch.zeros(()) if config.sparsity == "batchtopk" else None)
        stats = statistics or Statistics(torch.zeros(config.d), 1.0)
        self.register_buffer("mean", stats.mean.detach().float().clone())
        self.register_buffer("scale", torch.tensor(float(stats.scale)))
        goal = target or Statistics(torch.zeros(config.width_out), 1.0)
        self.register_buffer("target_mean", goal.mean.detach().float().clone() if config.transcodes else None)
        self.register_buffer("target_scale", torch.tensor(float(goal.scale)) if config.transcodes else None)

    @property
    def output(self) -> Units:
        """Of the reconstruction; an autoencoder's with `layer` normalisation has those of each vector instead."""
        if self.target_mean is None or self.target_scale is None:
            return Units(self.mean, self.scale)
        return Units(self.target_mean, self.target_scale)

    @torch.no_grad()
    def encode(self, x: Tensor, *, exact: bool = True) -> Codes:
        """Codes of raw activations.

        Args:
            x: [B, d], any float type.
            exact: compare pre-activations in float32. False: in bfloat16 where the CPU is fast at it, as training does;
                the values are exact either way.

        Raises:
            SaeError: x has another width.
        """
        z, mean, std = self.normalise(x)
        selection, values = self._active(z, exact)
        return padded(selection.pattern, values, mean, std)

    @torch.no_grad()
    def decode(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """[B, d_out] float32, raw units: the activations that codes stand for.

        Args:
            x: [B, d] the raw activations that were encoded; of use only to a transcoder with a skip, and needed by it.

        Raises:
            SaeError: the codes belong to an SAE of another size or normalisation, or x is needed.
        """
        if codes.n != self.config.n:
            raise SaeError(f"codes of {codes.n} latents do not fit an SAE of {self.config.n}")
        values = codes.values.reshape(-1)
        active = values != 0  # where rows are padded a latent may stand twice
        pattern = Pattern.fixed(codes.indices, codes.n).kept(active)
        output = choose(values.device).decode(values[active], pattern, self.W_dec)
        if self.W_skip is not None and x is None:
            raise SaeError("this transcoder has a skip: decode(codes, x) needs the activations that were encoded")
        z = None if self.W_skip is None or x is None else self.normalise(x).z
        return self._denormalised(output, z, codes.mean, codes.std)

    def forward(self, x: Tensor) -> Reconstruction:
        """Encode and decode raw activations `x [B, d]`."""
        codes = self.encode(x)
        return Reconstruction(self.decode(codes, x), codes)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Rebuilt:
        """`decode(encode(x, exact=False), x)`, for when nobody looks at the codes."""
        z, mean, std = self.normalise(x)
        selection, values = self._active(z, exact=False)
        output = self.exchange.add_up(choose(z.device).decode(values, selection.pattern, self.W_dec))()
        return Rebuilt(self._denormalised(output, z, mean, std), int((values != 0).sum()))

    def like(self, generator: torch.Generator | None = None) -> "Autoencoder":
        """Another SAE of the same shape and statistics, on the same device.

        It is untrained; without a generator its weights are unset, and it has this one's threshold.
        """
        statistics = Statistics(self.mean, float(self.scale)) if self.config.normalisation == "dataset" else None
        units = self.output
        target = Statistics(units.mean, float(units.scale)) if self.config.normalised_target else None
        other = Autoencoder(self.config, generator, statistics, target=target, exchange=self.exchange)
        other = other.to(self.W_enc.device)
        if generator is None and other.threshold is not None and self.threshold is not None:
            other.threshold.copy_(self.threshold)
        return other

    @torch.no_grad()
    def fold_norms(self) -> None:
        """Give the decoder unit rows and their norms to the encoder: what is reconstructed stays the same.

        Values grow by the norms. Possible where a latent's being active does not depend on other latents.
        """
        norms = self.W_dec.norm(dim=1).clamp_min(1e-12)
        self.W_dec /= norms[:, None]
        self.W_enc *= norms[:, None]
        self.b_enc *= norms
        if self.log_threshold is not None:
            self.log_threshold += norms.log()

    @torch.no_grad()
    def start_thresholds(self, z: Tensor) -> None:
        """Set thresholds that have none yet so that k latents of a vector of `z [B, d]`, normalised, are active.

        From lower ones training would spend its first part on a dense dictionary, and hardly recover from it.
        """
        if self.log_threshold is None or not bool(self.log_threshold.isnan().any()):
            return
        rows = min(START_ROWS, self.exchange.whole(len(z)))
        sample = z[self.exchange.evenly(rows, len(z), z.device)]
        start = exceeded(sample, self.encoder(), self.config.k, self.exchange)
        self.log_threshold.fill_(max(start, SMALLEST_START)).log_()

    def encoder(self) -> Encoder:
        """The encoder's weights outside autograd, thresholds as they are compared with."""
        threshold = self.threshold if self.log_threshold is None else self.log_threshold.detach().exp()
        return Encoder(self.W_enc.detach(), self.b_enc.detach(), threshold)

    @torch.no_grad()
    def direction(self, latent: int) -> Tensor:
        """[d_out] float32: what one unit of the latent's value adds to a raw activation.

        With `layer` normalisation an autoencoder's is further multiplied by the std of the vector it is added to.

        Raises:
            SaeError: there is no such latent.
        """
        if not 0 <= latent < self.config.n:
            raise SaeError(f"latent {latent} is out of range: this SAE has latents 0 to {self.config.n - 1}")
        return self.W_dec[latent] / self.output.scale

    @torch.no_grad()
    def normalise(self, x: Tensor) -> Normalised:
        """`z [B, d]` float32: raw activations in the SAE's space, minus `b_pre`.

        Raises:
            SaeError: x has another width.
        """
        y, mean, std = self.standardise(x)
        return Normalised(y.sub_(self.b_pre), mean, std)

    @torch.no_grad()
    def standardise(self, x: Tensor) -> Standardised:
        """`y [B, d]` float32: raw activations in the SAE's space, the same for all SAEs of one normalisation and store.

        `layer` uses the unbiased standard deviation (d - 1), as the reference system does.

        Raises:
            SaeError: x has another width.
        """
        if x.dim() != 2 or x.shape[1] != self.config.d:
            raise SaeError(f"activations of shape {list(x.shape)} do not fit an SAE of width {self.config.d}")
        if self.config.normalisation != "layer":
            # a copy even of float32: the caller's x stays as it is
            return Standardised(x.to(torch.float32, copy=True).sub_(self.mean).mul_(self.scale), None, None)
        x = x.float()
        mean = x.mean(1, keepdim=True)
        centred = x - mean
        std = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / max(1, self.config.d - 1) ** 0.5 + LAYER_EPS
        return Standardised(centred.div_(std), mean, std)

    @torch.no_grad()
    def standardise_target(self, target: Tensor) -> Tensor:
        """[B, d_out] float32: raw activations that a transcoder shall predict, in its space; `b_dec` is still in them.

        Raises:
            SaeError: they have another width, or this is no transcoder.
        """
        goal = self.output
        if not self.config.transcodes or target.dim() != 2 or target.shape[1] != self.config.width_out:
            raise SaeError(
                f"a target of shape {list(target.shape)} does not fit "
                + (f"a transcoder of output width {self.config.d_out}" if self.config.transcodes else "an autoencoder")
            )
        return target.to(torch.float32, copy=True).sub_(goal.mean).mul_(goal.scale)

    def _active(self, z: Tensor, exact: bool) -> tuple[Selection, Tensor]:
        """The active latents of `z` and their values [nnz]."""
        encoder = self.encoder()
        selection = self.sparsity.select(choose(z.device), z, encoder, Workspace(), exact=exact)
        return selection, self.sparsity.activate(selection, encoder)

    def _denormalised(self, output: Tensor, z: Tensor | None, mean: Tensor | None, std: Tensor | None) -> Tensor:
        """The decoder's output [B, d_out] in raw units; z: what was encoded, where there is a skip."""
        if self.b_dec is not None:
            skipped = self.b_dec if self.W_skip is None or z is None else torch.addmm(self.b_dec, z, self.W_skip.T)
            return (output + skipped) / self.output.scale + self.output.mean
        y = output + self.b_pre
        if self.config.normalisation != "layer":
            return y / self.scale + self.mean
        if std is None or mean is None:
            raise SaeError("codes lack the mean and std of their vectors, which 'layer' normalisation needs to decode")
        return y * std + mean


def _dictionary(n: int, d: int, generator: torch.Generator | None, own: range) -> Tensor:
    return torch.empty(len(own), d) if generator is None else block_orthogonal(n, d, generator, own)


def _check_statistics(
    config: SaeConfig, statistics: Statistics | None, b_pre: Tensor | None, target: Statistics | None
) -> None:
    if (config.normalisation == "dataset") != (statistics is not None):
        raise SaeError(f"normalisation {config.normalisation!r}: statistics belong to 'dataset', and only to it")
    if config.normalised_target != (target is not None):
        raise SaeError("statistics of a target belong to transcoders that normalise it, and only to them")
    vectors = (
        ("the mean", statistics and statistics.mean, config.d),
        ("b_pre", b_pre, config.d),
        ("the target's mean", target and target.mean, config.width_out),
    )
    for name, vector, width in vectors:
        if vector is not None and vector.shape != (width,):
            raise SaeError(f"{name} has shape {list(vector.shape)}, expected [{width}]")
