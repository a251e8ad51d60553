"""How well vectors are rebuilt: FVU, L0, cosine, norms and the reference's loss, summed in float64.

Flow: `Totals.add` takes vectors and what was made of them, in any number of batches; `Totals.figures` gives the
numbers. Anything that maps a sample to a `Rebuilt` of its target can be measured: an SAE, the mean, PCA, the identity.
Knows no language model and no files. docs/definitions.md states each figure.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.errors import StoreError
from monosem.sae.autoencoder import Autoencoder
from monosem.store.pairs import Sample

REFERENCE_EPS = 1e-6  # of the reference system's per-vector normalisation


class Rebuilt(NamedTuple):
    """What a method makes of a sample."""

    x_hat: Tensor
    """[B, d_out] float32, in the units of the target."""
    active: Tensor
    """[B] numbers that the method passed on for each vector: active latents, components."""


Reconstruct = Callable[[Sample], Rebuilt]


class Figures(NamedTuple):
    """Quality of a reconstruction over `rows` vectors."""

    rows: int
    fvu: float
    """sum |x - x_hat|^2 / sum |x - mean|^2, with the mean of these very vectors: predicting it gives 1."""
    l0: float
    """Mean number of active latents."""
    cosine: float
    """Mean cosine between x and x_hat."""
    norm_ratio: float
    """Mean of |x_hat| / |x|."""
    relative_bias: float
    """sum |x_hat|^2 / sum <x, x_hat>: below 1 the reconstruction is too short (arXiv 2404.16014, section 4.3)."""
    reference_loss: float
    """Mean squared error of vectors brought to mean 0 and std 1: the reference system's training loss, without AuxK."""


class Totals:
    """Running sums over vectors and their reconstructions."""

    def __init__(self) -> None:
        self.rows = 0
        self._mean: Tensor | None = None
        self._variance = 0.0
        self._error = self._active = self._cosine = self._norm_ratio = 0.0
        self._square_hat = self._product = self._reference = 0.0

    def add(self, x: Tensor, rebuilt: Rebuilt) -> None:
        """Count `x [B, d]` and its reconstruction."""
        if not len(x):
            return
        self._add_variance(x)
        x, x_hat = x.double(), rebuilt.x_hat.double()
        error = (x - x_hat).square().sum(1)
        norm, norm_hat, product = x.norm(dim=1), x_hat.norm(dim=1), (x * x_hat).sum(1)
        tiny = torch.finfo(torch.float64).tiny
        self._error += error.sum().item()
        self._active += rebuilt.active.sum(dtype=torch.float64).item()
        self._cosine += (product / (norm * norm_hat).clamp_min(tiny)).sum().item()
        self._norm_ratio += (norm_hat / norm.clamp_min(tiny)).sum().item()
        self._square_hat += norm_hat.square().sum().item()
        self._product += product.sum().item()
        spread = x.std(dim=1) + REFERENCE_EPS
        self._reference += (error / x.shape[1] / spread.square()).sum().item()

    def figures(self) -> Figures:
        """The figures of everything added.

        Raises:
            StoreError: nothing was added, or all vectors are equal.
        """
        if not self.rows or not self._variance:
            raise StoreError(f"{self.rows} activations to evaluate, without any variance; capture more sentences")
        rows = self.rows
        return Figures(
            rows=rows,
            fvu=self._error / self._variance,
            l0=self._active / rows,
            cosine=self._cosine / rows,
            norm_ratio=self._norm_ratio / rows,
            relative_bias=self._square_hat / self._product if self._product else 0.0,
            reference_loss=self._reference / rows,
        )

    def _add_variance(self, x: Tensor) -> None:
        """Chan's merge of a batch into the mean and the sum of squared deviations from it."""
        x = x.double()
        mean = x.mean(0)
        self._variance += (x - mean).square().sum().item()
        if self._mean is None:
            self._mean = mean
        else:
            shift = mean - self._mean
            self._variance += shift.square().sum().item() * self.rows * len(x) / (self.rows + len(x))
            self._mean = self._mean + shift * (len(x) / (self.rows + len(x)))
        self.rows += len(x)


def measure(batches: Iterable[Sample], methods: dict[str, Reconstruct]) -> dict[str, Figures]:
    """Figures of every method over the same vectors, in one pass.

    Raises:
        StoreError: as `Totals.figures`.
    """
    totals = {name: Totals() for name in methods}
    for batch in batches:
        exact = Sample(batch.x.float(), batch.target.float())
        for name, method in methods.items():
            totals[name].add(exact.target, method(exact))
    return {name: total.figures() for name, total in totals.items()}


def through(sae: Autoencoder) -> Reconstruct:
    """The SAE as a method: encode, decode, count the latents that fired."""

    def rebuild(sample: Sample) -> Rebuilt:
        x_hat, codes = sae(sample.x)
        return Rebuilt(x_hat, (codes.values != 0).sum(1))

    return rebuild


def identity(sample: Sample) -> Rebuilt:
    """The vectors themselves: the best that a method can do."""
    return Rebuilt(sample.target, torch.full((len(sample.target),), sample.target.shape[1]))


def constant(vector: Tensor) -> Reconstruct:
    """One vector `[d]` for all: the mean of mean ablation, or zero."""

    def rebuild(sample: Sample) -> Rebuilt:
        return Rebuilt(vector.to(sample.target).expand_as(sample.target), torch.zeros(len(sample.target)))

    return rebuild
