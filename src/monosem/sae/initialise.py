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


def block_orthogonal(n: int, d: int, generator: torch.Generator, only: range | None = None) -> Tensor:
    """[n, d] float32 unit rows, orthogonal to each other within every block of d rows.

    Args:
        only: the rows that are wanted; what is drawn for the others is not worked out.

    Each block is uniform over the orthogonal matrices (Mezzadri, 2007, section 5: the signs of R's diagonal).
    """
    only = only or range(n)
    blocks = []
    for first in range(0, n, d):
        drawn = torch.randn(d, d, generator=generator)
        if first < only.stop and first + d > only.start:
            q, r = torch.linalg.qr(drawn)
            blocks.append((q * r.diagonal().sign()).T[max(0, only.start - first) : only.stop - first])
    rows = torch.cat(blocks)
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
