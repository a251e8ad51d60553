"""What any method gets for free: an untrained SAE of the same shape, and PCA with as many components as the SAE's k.

Both are methods like the SAE and go through the same measures. PCA is fitted on training vectors; `pca_curve` tells how
many components reach the SAE's FVU. Knows no language model.
"""

from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.evaluate.reconstruction import Rebuilt
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.initialise import Statistics


class Pca(NamedTuple):
    """Principal components of activations; as a method, the reconstruction from the first `components` of them."""

    mean: Tensor
    """[d] float32."""
    basis: Tensor
    """[d, d] float32, orthonormal columns, largest variance first."""
    components: int

    def __call__(self, x: Tensor) -> Rebuilt:
        """Rebuild `x [B, d]`."""
        basis = self.basis[:, : self.components]
        x_hat = (x.float() - self.mean) @ basis @ basis.T + self.mean
        return Rebuilt(x_hat, torch.full((len(x),), self.components))


def fit_pca(batches: Iterable[Tensor], components: int) -> Pca:
    """Fit on vectors `[B, d]`, one batch at least; products are summed in float64 about the first batch's mean."""
    batches = iter(batches)
    first = next(batches).double()
    centre = first.mean(0)
    count, total, products = 0, torch.zeros_like(centre), first.new_zeros(len(centre), len(centre))
    for x in chain([first], batches):
        x = x.double() - centre
        count += len(x)
        total += x.sum(0)
        products += x.T @ x
    shift = total / count
    basis = torch.linalg.eigh(products / count - torch.outer(shift, shift)).eigenvectors.flip(1)
    return Pca((centre + shift).float(), basis.float().contiguous(), min(components, len(centre)))


def pca_rank(pca: Pca, batches: Iterable[Tensor], fvu: float) -> int:
    """How many components PCA needs for an FVU of at most `fvu` on vectors `[B, d]`."""
    residual, energy, count = 0.0, torch.zeros(len(pca.mean), dtype=torch.float64), 0
    total = torch.zeros_like(energy)
    for x in batches:
        coordinates = ((x.float() - pca.mean) @ pca.basis).double()
        residual += coordinates.square().sum().item()
        energy += coordinates.square().sum(0)
        total += coordinates.sum(0)
        count += len(x)
    variance = residual - total.square().sum().item() / count
    remaining = (residual - torch.cat([energy.new_zeros(1), energy.cumsum(0)])).clamp_min(0)
    return int((remaining / variance <= fvu).nonzero()[0]) if remaining[-1] / variance <= fvu else len(energy)


def random_sae(sae: Autoencoder, seed: int, sample: Tensor) -> Autoencoder:
    """An untrained SAE of the same shape and normalisation, its `b_pre` the mean of the sample in normalised space.

    Args:
        sample: [B, d] activations.
    """
    statistics = Statistics(sae.mean, float(sae.scale)) if sae.config.normalisation == "dataset" else None
    generator = torch.Generator().manual_seed(seed)
    untrained = Autoencoder(sae.config, generator, statistics)
    with torch.no_grad():
        untrained.b_pre.copy_(untrained.normalise(sample).z.mean(0))
    return untrained
