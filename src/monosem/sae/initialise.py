"""Starting values of an SAE: block-orthogonal dictionaries, the geometric median, statistics of normalisation."""

from typing import NamedTuple

import torch
from torch import Tensor


class Statistics(NamedTuple):
    """How `dataset` normalisation maps activations: `(x - mean) * scale`."""

    mean: Tensor
    """[d] float32, in raw units."""
    scale: float
    """Makes E|x|^2 = d."""


def dataset_statistics(mean: Tensor, variance: Tensor) -> Statistics:
    """Statistics of `dataset` normalisation from the mean and variance `[d]` of every dimension of the store."""
    total = float(variance.double().sum())
    return Statistics(mean.float(), (len(mean) / total) ** 0.5 if total > 0 else 1.0)


def block_orthogonal(n: int, d: int, generator: torch.Generator) -> Tensor:
    """[n, d] float32 unit rows, orthogonal to each other within every block of d rows.

    Each block is uniform over the orthogonal matrices (Mezzadri, 2007, section 5: the signs of R's diagonal).
    """
    blocks = []
    for _ in range(0, n, d):
        q, r = torch.linalg.qr(torch.randn(d, d, generator=generator))
        blocks.append((q * r.diagonal().sign()).T)
    rows = torch.cat(blocks)[:n]
    return rows / rows.norm(dim=1, keepdim=True)


def geometric_median(points: Tensor, tolerance: float = 1e-6, rounds: int = 200) -> Tensor:
    """[d] float32: the point with the least summed distance to `points [S, d]`, by Weiszfeld's iteration.

    The start of `b_pre` in "Scaling and evaluating sparse autoencoders" (Gao et al., 2024, appendix A); outliers move
    it less than the mean.
    """
    points = points.double()
    median = points.mean(0)
    for _ in range(rounds):
        weights = 1 / (points - median).norm(dim=1).clamp_min(1e-12)
        moved = (weights[:, None] * points).sum(0) / weights.sum()
        step = float((moved - median).norm())
        median = moved
        if step <= tolerance * float(median.norm()):
            break
    return median.float()
