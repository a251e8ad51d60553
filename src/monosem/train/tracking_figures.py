"""What the tracking of a training run shows: intervals in, the figures of four charts out.

Density and values of the latents over training, births and deaths, and a heat map of all latents. Pure functions of
`train.tracking.Interval`s, at the resolution of the intervals; knows nothing of how charts are drawn.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from monosem.train.tracking import Interval

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MOST_INTERVALS = 120  # of a chart; more would not be seen
MOST_ROWS = 200  # of the heat map

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class Bands(NamedTuple):
    """How a figure is spread over the latents that fired, interval by interval."""

    steps: Counts
    """[T], at the end of each interval, counted from 1."""
    quantiles: Floats
    """[len(QUANTILES), T]; NaN where no latent fired."""


class Turnover(NamedTuple):
    """Latents [T] at and in each interval. Dead is: silent for at least `window` activations."""

    steps: Counts
    """At the end of each interval, counted from 1."""
    window: int
    """In activations."""
    dead: Counts
    """At the end of the interval. A latent that has never fired is silent since the start."""
    born: Counts
    """Fired for the first time."""
    died: Counts
    """Fired for the last time, and are dead at the end of training."""
    revived: Counts
    """Fired in the interval, had fired before, and were dead at its start."""


class HeatMap(NamedTuple):
    """Firing of all latents over training. Rows are latents by the interval of their first firing, then by density."""

    edges: Counts
    """[T + 1] steps: where the intervals begin, and the last one ends."""
    density: Floats
    """[R, T]: mean share of activations on which a latent of the row fired; 0 where none did."""
    latents: int
    """Number of all latents, spread evenly over the R rows."""
    never: int
    """Latents that never fired: the last rows."""


def pool(intervals: Sequence[Interval], most: int = MOST_INTERVALS) -> list[Interval]:
    """Neighbouring intervals joined until there are at most `most`.

    A last one cut short by the end of training joins the one before: its few activations would look like a change.
    """
    if len(intervals) > 1 and 2 * intervals[-1].activations < intervals[-2].activations:
        intervals = [*intervals[:-2], _join(list(intervals[-2:]))]
    groups = np.array_split(np.arange(len(intervals)), max(1, min(most, len(intervals))))
    return [_join([intervals[i] for i in group]) for group in groups if len(group)]


def _join(parts: list[Interval]) -> Interval:
    if len(parts) == 1:
        return parts[0]
    fired = torch.stack([part.fire_count for part in parts]).double()
    mean = torch.stack([part.mean for part in parts]).double()
    return Interval(
        first_step=parts[0].first_step,
        last_step=parts[-1].last_step,
        activations=sum(part.activations for part in parts),
        fire_count=fired.sum(0).to(torch.int32),
        maximum=torch.stack([part.maximum for part in parts]).amax(0),
        mean=((fired * mean).sum(0) / fired.sum(0).clamp_min(1)).float(),
        last_fired=parts[-1].last_fired,
    )


def density_bands(intervals: Sequence[Interval]) -> Bands:
    """Quantiles of log10 of the share of activations on which a latent fires."""
    return _bands(intervals, [np.log10(density[density > 0]) for density in _densities(intervals)])


def mean_bands(intervals: Sequence[Interval]) -> Bands:
    """Quantiles of a latent's mean value where it fires."""
    return _bands(intervals, [one.mean[one.fire_count > 0].double().numpy() for one in intervals])


def maximum_bands(intervals: Sequence[Interval]) -> Bands:
    """Quantiles of a latent's largest value."""
    return _bands(intervals, [one.maximum[one.fire_count > 0].double().numpy() for one in intervals])


def turnover(intervals: Sequence[Interval], window: int) -> Turnover:
    """Births, deaths and revivals.

    Args:
        intervals: in order, from the first step of training.
        window: activations of silence that make a latent dead.
    """
    last_fired = np.array([one.last_fired.numpy() for one in intervals])  # [T, n]
    fired = np.array([one.fire_count.numpy() > 0 for one in intervals])
    dead = _silence(intervals, last_fired) >= window
    before = np.zeros_like(fired)
    before[1:] = np.logical_or.accumulate(fired, axis=0)[:-1]
    dead_before = np.zeros_like(dead)
    dead_before[1:] = dead[:-1]
    first_steps = np.array([one.first_step for one in intervals])[:, None]
    last = fired & (last_fired[-1] >= first_steps) & (last_fired[-1] <= _ends(intervals)[:, None] - 1)
    return Turnover(
        steps=_ends(intervals),
        window=window,
        dead=dead.sum(1),
        born=(fired & ~before).sum(1),
        died=(last & dead[-1]).sum(1),
        revived=(fired & before & dead_before).sum(1),
    )


def _silence(intervals: Sequence[Interval], last_fired: NDArray[np.int64]) -> Floats:
    """[T, n] activations since each latent fired, at the end of each interval; batches of an interval are alike."""
    ends = np.concatenate([[0], _ends(intervals)])
    seen = np.concatenate([[0], np.cumsum([one.activations for one in intervals])])
    return seen[1:, None] - np.interp(last_fired + 1, ends, seen)


def heat_map(intervals: Sequence[Interval], most_rows: int = MOST_ROWS) -> HeatMap:
    """Density of every latent in every interval, latents joined to at most `most_rows` rows of neighbours."""
    density = np.array(_densities(intervals)).T  # [n, T]
    fired = density > 0
    first = np.where(fired.any(1), fired.argmax(1), len(intervals))
    order = np.lexsort((-density.sum(1), first))
    rows = np.array_split(order, min(most_rows, len(order)))
    return HeatMap(
        edges=np.concatenate([[intervals[0].first_step], _ends(intervals)]),
        density=np.array([density[row].mean(0) for row in rows]),
        latents=len(density),
        never=int((first == len(intervals)).sum()),
    )


def _ends(intervals: Sequence[Interval]) -> Counts:
    """[T] steps done at the end of each interval."""
    return np.array([one.last_step + 1 for one in intervals], dtype=np.int64)


def _densities(intervals: Sequence[Interval]) -> list[Floats]:
    return [one.fire_count.double().numpy() / max(1, one.activations) for one in intervals]


def _bands(intervals: Sequence[Interval], values: list[Floats]) -> Bands:
    spread = [np.quantile(part, QUANTILES) if len(part) else np.full(len(QUANTILES), np.nan) for part in values]
    return Bands(_ends(intervals), np.array(spread).T)
