"""The figures of a score: from answers and truth to one number, and how sure it is. Knows no latent and no sentence."""

from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
DRAWS = 1000  # of a bootstrap over latents
FEW_DRAWS = 400  # of one latent's
LEVEL = 0.95  # of every interval


class Interval(NamedTuple):
    """A percentile bootstrap interval (Efron 1979) at 95 %."""

    low: float
    high: float


def auroc(score: NDArray[np.floating], firing: Bools) -> Floats:
    """Probability that a firing one has the larger score, ties half.

    Args:
        score: [..., M].
        firing: [M].

    Returns:
        [...]; NaN where one of the two kinds is missing.
    """
    yes, no = score[..., firing, None], score[..., None, ~firing]
    if not yes.size or not no.size:
        return np.full(score.shape[:-1], np.nan)
    return ((yes > no).mean((-2, -1)) + (yes >= no).mean((-2, -1))) / 2


def balanced_accuracy(said: Bools, firing: Bools) -> Floats:
    """Mean of the shares of firing and of silent ones that were told right; shapes as in `auroc`."""
    if firing.all() or not firing.any():
        return np.full(said.shape[:-1], np.nan)
    return (said[..., firing].mean(-1) + (~said[..., ~firing]).mean(-1)) / 2


def f1(hits: NDArray[np.integer], said: NDArray[np.integer], true: NDArray[np.integer]) -> Floats:
    """Harmonic mean of precision and recall, from counts; 0 where nothing was said, NaN where nothing is true."""
    return np.where(true > 0, 2 * hits / np.maximum(said + true, 1), np.nan)


def pearson(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Correlation of two vectors; 0 where one of them is constant."""
    x, y = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm > 0 else 0.0


def explained(true: NDArray[np.floating], predicted: NDArray[np.floating]) -> float:
    """R^2 about zero, `1 - E (a - a^)^2 / E a^2`: 0 for predicting silence everywhere; NaN where nothing is true."""
    energy = float(true @ true)
    return 1 - float(((true - predicted) ** 2).sum()) / energy if energy > 0 else float("nan")


def rate_interval(hits: int, of: int, rejections: int, silent: int, rng: np.random.Generator) -> Interval:
    """Of a balanced accuracy: firing and silent ones drawn anew apart, which makes both counts binomial."""
    drawn = (
        rng.binomial(of, hits / of, FEW_DRAWS) / of + rng.binomial(silent, rejections / silent, FEW_DRAWS) / silent
    ) / 2
    return _percentiles(drawn)


def mean_interval(values: NDArray[np.floating], seed: int) -> Interval:
    """Of the mean over latents, which are drawn anew."""
    rng = np.random.default_rng(seed)
    size = len(values)
    means = np.empty(DRAWS)
    for i in range(DRAWS):
        means[i] = values[rng.integers(0, size, size)].mean()
    return _percentiles(means)


def high(values: Floats) -> float:
    """The 95th percentile: the smallest of the values that at least 95 % do not exceed."""
    place = ceil(LEVEL * len(values)) - 1
    return float(np.partition(values, place)[place])


def _percentiles(drawn: Floats) -> Interval:
    ordered = np.sort(drawn)
    outside = int(len(drawn) * (1 - LEVEL) / 2)
    return Interval(float(ordered[outside]), float(ordered[-1 - outside]))
