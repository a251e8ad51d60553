"""The sparse autoencoder: raw activations to codes and back.

`z = normalise(x) - b_pre`, `a = W_enc z + b_enc`, `h = sparsity(a)`, `x_hat = denormalise(W_dec^T h + b_pre)`. The
normalisation belongs to the SAE, so callers only ever see raw activations. Gradients are not recorded here: the
training step computes them explicitly.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from monosem.errors import SaeError
from monosem.kernels import Pattern, Workspace, choose
from monosem.sae.codes import Codes, padded
from monosem.sae.exchange import ALONE, Exchange
from monosem.sae.initialise import Statistics, block_orthogonal
from monosem.sae.sparsity import Encoder, Selection, exceeded, make_sparsity

Normalisation = Literal["layer", "dataset", "none"]
LAYER_EPS = 1e-6
START_ROWS = 256
SMALLEST_START = 1e-3
BY_LATENT = ("W_enc", "b_enc", "W_dec", "log_threshold")
"""Parameters with one row for each latent."""


@dataclass(frozen=True)
class SaeConfig:
    """The shape of an SAE and where it belongs.

    Raises:
        SaeError: a size or name that cannot be.
    """

    d: int
    """Width of the activations."""
    n: int
    """Number of latents."""
    k: int
    """Active latents for each activation: exactly, on average over a batch, or as training aimed at."""
    sparsity: str = "topk"
    """One of `monosem.sae.sparsity.SPARSITIES`."""
    normalisation: Normalisation = "dataset"
    """`layer`: (x - mean) / (std + 1e-6) of every vector; `dataset`: (x - mean) * scale, of the store; `none`."""
    model: str = ""
    """The language model it was trained on."""
    hook_point: str = ""
    """The place in it."""
    norm_threshold: float | None = None
    """Activations with a larger norm (attention sinks) were left out of its training. None: none were."""
    prefixes: tuple[int, ...] = ()
    """Matryoshka: the first so many latents were trained to reconstruct by themselves."""

    def __post_init__(self) -> None:
        for name in ("d", "n", "k"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise SaeError(f"{name} = {getattr(self, name)!r}: expected a whole number of at least 1")
        if self.k > self.n:
            raise SaeError(f"k = {self.k} is larger than n = {self.n}; choose k <= n")
        if self.normalisation not in ("layer", "dataset", "none"):
            raise SaeError(f"normalisation {self.normalisation!r} is not known; expected layer, dataset or none")
        if any(not 1 <= size <= self.n for size in self.prefixes):
            raise SaeError(f"prefixes = {list(self.prefixes)}: expected sizes from 1 to n = {self.n}")
        make_sparsity(self.sparsity, self.k)


class Reconstruction(NamedTuple):
    """What an SAE makes of activations."""

    x_hat: Tensor
    """[B, d] float32, raw units."""
    codes: Codes


class Rebuilt(NamedTuple):
    """Activations as an SAE rebuilds them."""

    x_hat: Tensor
    """[B, d] float32, raw units."""
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


class Autoencoder(nn.Module):
    """A sparse autoencoder over raw activations.

    Args:
        config: its shape.
        generator: decides the initial dictionary: block-orthogonal unit rows, the encoder parallel to the decoder
            (W_enc = encoder_norm * W_dec, both [n, d]), no biases. Without one the weights are left unset.
        statistics: of the store; needed by and only by `dataset` normalisation.
        threshold: start of every latent's threshold, for `jumprelu`. None: `start_thresholds` sets it.
        encoder_norm: norm of the encoder's rows at the start. The k chosen rows overlap, so that a smaller one than the
            decoder's overshoots less.
        b_pre: [d] start of the shared bias, in normalised space (the mean or the geometric median of normalised
            activations; with `dataset`, zero is the store's mean). None: zero.
        exchange: with other processes, each of which holds some of the latents: `config` says what all are together,
            the parameters have the rows of this one's. `reconstruct` and training then are calls of all of them.

    Raises:
        SaeError: `dataset` normalisation without statistics, or statistics or b_pre of another width.
    """

    mean: Tensor
    scale: Tensor
    threshold: Tensor | None

    def __init__(
        self,
        config: SaeConfig,
        generator: torch.Generator | None = None,
        statistics: Statistics | None = None,
        b_pre: Tensor | None = None,
        encoder_norm: float = 1.0,
        threshold: float | None = 0.1,
        exchange: Exchange = ALONE,
    ) -> None:
        super().__init__()
        if (config.normalisation == "dataset") != (statistics is not None):
            raise SaeError(f"normalisation {config.normalisation!r}: statistics belong to 'dataset', and only to it")
        for name, vector in (("the mean", statistics and statistics.mean), ("b_pre", b_pre)):
            if vector is not None and vector.shape != (config.d,):
                raise SaeError(f"{name} has shape {list(vector.shape)}, expected [{config.d}]")
        self.config, self.exchange = config, exchange
        self.sparsity = make_sparsity(config.sparsity, config.k, exchange=exchange)
        own = exchange.latents(config.n)
        dictionary = (
            torch.empty(len(own), config.d)
            if generator is None
            else block_orthogonal(config.n, config.d, generator, own)
        )
        self.W_enc = nn.Parameter(dictionary * encoder_norm)
        self.b_enc = nn.Parameter(torch.zeros(len(own)))
        self.W_dec = nn.Parameter(dictionary)
        self.b_pre = nn.Parameter(torch.zeros(config.d) if b_pre is None else b_pre.detach().float().clone())
        self.log_threshold = None
        if config.sparsity == "jumprelu":
            self.log_threshold = nn.Parameter(
                torch.full((len(own),), torch.nan if threshold is None else threshold).log()
            )
        # batchtopk: what a pre-activation must exceed outside of training; follows the batches
        self.register_buffer("threshold", torch.zeros(()) if config.sparsity == "batchtopk" else None)
        stats = statistics or Statistics(torch.zeros(config.d), 1.0)
        self.register_buffer("mean", stats.mean.detach().float().clone())
        self.register_buffer("scale", torch.tensor(float(stats.scale)))

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
    def decode(self, codes: Codes) -> Tensor:
        """[B, d] float32, raw units: the activations that codes stand for.

        Raises:
            SaeError: the codes belong to an SAE of another size or normalisation.
        """
        if codes.n != self.config.n:
            raise SaeError(f"codes of {codes.n} latents do not fit an SAE of {self.config.n}")
        values = codes.values.reshape(-1)
        active = values != 0  # where rows are padded a latent may stand twice
        pattern = Pattern.fixed(codes.indices, codes.n).kept(active)
        output = choose(values.device).decode(values[active], pattern, self.W_dec)
        return self._denormalised(output, codes.mean, codes.std)

    def forward(self, x: Tensor) -> Reconstruction:
        """Encode and decode raw activations `x [B, d]`."""
        codes = self.encode(x)
        return Reconstruction(self.decode(codes), codes)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Rebuilt:
        """`decode(encode(x, exact=False))`, for when nobody looks at the codes."""
        z, mean, std = self.normalise(x)
        selection, values = self._active(z, exact=False)
        output = self.exchange.add_up(choose(z.device).decode(values, selection.pattern, self.W_dec))()
        return Rebuilt(self._denormalised(output, mean, std), int((values != 0).sum()))

    def like(self) -> "Autoencoder":
        """Another SAE of the same shape, statistics and threshold, on the same device; its weights are unset."""
        statistics = Statistics(self.mean, float(self.scale)) if self.config.normalisation == "dataset" else None
        other = Autoencoder(self.config, statistics=statistics, exchange=self.exchange).to(self.W_enc.device)
        if other.threshold is not None and self.threshold is not None:
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
        """[d] float32: what one unit of the latent's value adds to a raw activation.

        With `layer` normalisation it is further multiplied by the std of the vector it is added to.

        Raises:
            SaeError: there is no such latent.
        """
        if not 0 <= latent < self.config.n:
            raise SaeError(f"latent {latent} is out of range: this SAE has latents 0 to {self.config.n - 1}")
        return self.W_dec[latent] / self.scale

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

    def _active(self, z: Tensor, exact: bool) -> tuple[Selection, Tensor]:
        """The active latents of `z` and their values [nnz]."""
        encoder = self.encoder()
        selection = self.sparsity.select(choose(z.device), z, encoder, Workspace(), exact=exact)
        return selection, self.sparsity.activate(selection, encoder)

    def _denormalised(self, output: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
        """The decoder's output [B, d] in raw units."""
        y = output + self.b_pre
        if self.config.normalisation != "layer":
            return y / self.scale + self.mean
        if std is None or mean is None:
            raise SaeError("codes lack the mean and std of their vectors, which 'layer' normalisation needs to decode")
        return y * std + mean
