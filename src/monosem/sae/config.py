"""The shape of an SAE or transcoder, and where it belongs."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from monosem.errors import SaeError
from monosem.sae.sparsity import make_sparsity

Normalisation = Literal["layer", "dataset", "none"]


class Place(NamedTuple):
    """A hook point as an SAE knows it."""

    hook_point: str
    norm_threshold: float | None
    """Activations with a larger norm were left out of training."""


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
    d_out: int | None = None
    """Transcoders: width of what is reconstructed. None: an autoencoder, which reconstructs what it reads."""
    target_hook_point: str = ""
    """Transcoders: the place of that in the language model."""
    target_norm_threshold: float | None = None
    """Transcoders: as `norm_threshold`, there."""
    skip: bool = False
    """Transcoders: what is read reaches the reconstruction through an affine map as well."""

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
        if self.d_out is not None and (not isinstance(self.d_out, int) or self.d_out < 1):
            raise SaeError(f"d_out = {self.d_out!r}: expected a whole number of at least 1, or null for an autoencoder")
        if self.d_out is None and (self.skip or self.target_hook_point):
            raise SaeError("skip and target_hook_point belong to a transcoder: give d_out, the width of its target")
        make_sparsity(self.sparsity, self.k)

    @property
    def transcodes(self) -> bool:
        """Whether it reconstructs something else than it reads."""
        return self.d_out is not None

    @property
    def normalised_target(self) -> bool:
        """Whether the target of a transcoder has statistics of its own."""
        return self.transcodes and self.normalisation != "none"

    @property
    def width_out(self) -> int:
        """Width of the reconstruction."""
        return self.d if self.d_out is None else self.d_out

    @property
    def output(self) -> "Place":
        """Where the reconstruction belongs, and with it every edit of latents."""
        if self.transcodes:
            return Place(self.target_hook_point, self.target_norm_threshold)
        return Place(self.hook_point, self.norm_threshold)
