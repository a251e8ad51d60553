"""What any method gets for free: an untrained SAE of the same shape, and PCA with as many components as the SAE's k.

A transcoder, which does not see what it reconstructs, has the best affine map in the place of PCA. All are methods like
the SAE and go through the same measures; they are fitted on training vectors. `pca_rank` tells how many components
reach the SAE's FVU. Knows no language model.
"""

from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.evaluate.reconstruction import Rebuilt
from monosem.sae.autoencoder import Autoencoder
from monosem.store.pairs import Sample

DAMPING = 1e-6  # of a direction's variance, as a share of the mean over all directions


class Pca(NamedTuple):
    """Principal components of activations; as a method, the reconstruction from the first `components` of them."""

    mean: Tensor
    """[d] float32."""
    basis: Tensor
    """[d, d] float32, orthonormal columns, largest variance first."""
    components: int

    def __call__(self, sample: Sample) -> Rebuilt:
        """Rebuild the target."""
        x, basis = sample.target, self.basis[:, : self.components]
        x_hat = (x.float() - self.mean) @ basis @ basis.T + self.mean
        return Rebuilt(x_hat, torch.full((len(x),), self.components))


class Affine(NamedTuple):
    """An affine map of what is read; as a method, its value."""

    weight: Tensor
    """[d_out, d] float32."""
    bias: Tensor
    """[d_out] float32."""

    def __call__(self, sample: Sample) -> Rebuilt:
        """Predict the target."""
        target_hat = torch.addmm(self.bias, sample.x.float(), self.weight.T)
        return Rebuilt(target_hat, torch.full((len(target_hat),), self.weight.shape[1]))


def fit_affine(batches: Iterable[Sample]) -> Affine:
    """The map of least squared error on samples, one batch at least; products are summed in float64.

    Directions in which the samples hardly vary are damped: without that, what is fitted to would not be what is met.
    """
    batches = iter(batches)
    first = next(batches)
    centre = Sample(first.x.double().mean(0), first.target.double().mean(0))
    count, total_x, total_y = 0, torch.zeros_like(centre.x), torch.zeros_like(centre.target)
    xx, xy = torch.outer(total_x, total_x), torch.outer(total_x, total_y)
    for batch in chain([first], batches):
        x, y = batch.x.double() - centre.x, batch.target.double() - centre.target
        count += len(x)
        total_x += x.sum(0)
        total_y += y.sum(0)
        xx += x.T @ x
        xy += x.T @ y
    mean_x, mean_y = total_x / count, total_y / count
    covariance = xx / count - torch.outer(mean_x, mean_x)
    covariance.diagonal().add_(max(DAMPING * float(covariance.diagonal().mean()), torch.finfo(torch.float64).tiny))
    weight = torch.linalg.solve(covariance, xy / count - torch.outer(mean_x, mean_y)).T
    bias = centre.target + mean_y - weight @ (centre.x + mean_x)
    return Affine(weight.float().contiguous(), bias.float())


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


def random_sae(sae: Autoencoder, seed: int, sample: Sample) -> Autoencoder:
    """An untrained SAE of the same shape and normalisation, its biases the means of the sample in normalised space."""
    untrained = sae.like(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        untrained.b_pre.copy_(untrained.normalise(sample.x).z.mean(0))
        if untrained.b_dec is not None:
            untrained.b_dec.copy_(untrained.standardise_target(sample.target).mean(0))
    return untrained
