"""The tracking of a run as a page reads it: one latent's density over training, and the spread over all latents.

An interval's file never changes once it is there, so what was read of it is kept by name. Of one latent only its own
numbers are read. Does not know the trainer, only its files (`docs/formats.md`).
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

QUANTILES = (0.05, 0.5, 0.95)


class Interval(NamedTuple):
    """One interval of training, over all latents."""

    step: int
    """Its last."""
    activations: int
    fired: int
    """Latents that fired in it."""
    quantiles: tuple[float, ...]
    """`QUANTILES` of the density of those that fired; NaN where none did."""
    written: float
    """When its file was, in seconds since 1970."""


class Tracks:
    """The tracking folder of a run, which may grow while it is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._intervals: dict[str, Interval] = {}

    def density(self, latent: int) -> list[tuple[int, float]]:
        """(last step, share of activations on which the latent fires) of every interval that is not cut short."""
        found, spans = [], []
        for path in self._paths():
            try:
                with safe_open(path, framework="numpy") as file:
                    span = file.get_tensor("span")
                    count = int(file.get_slice("fire_count")[latent : latent + 1][0])
            except (SafetensorError, OSError, IndexError):
                continue  # of an older version, or on its way to another name
            found.append((int(span[1]) + 1, count / max(1, int(span[2]))))
            spans.append(int(span[2]))
        return found[:-1] if cut_short(spans) else found

    def intervals(self) -> list[Interval]:
        """All intervals, in order."""
        with self._lock:
            paths = self._paths()
            for path in paths:
                if path.name not in self._intervals and (read := _interval(path)):
                    self._intervals[path.name] = read
            return [self._intervals[path.name] for path in paths if path.name in self._intervals]

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("steps-*.safetensors"))


def cut_short(spans: Sequence[int]) -> bool:
    """Whether the last interval, by the activations of each, is less than half of the one before it, as the end of
    training leaves it: its figures would look like a change."""
    return len(spans) > 1 and 2 * spans[-1] < spans[-2]


def _interval(path: Path) -> Interval | None:
    try:
        with safe_open(path, framework="numpy") as file:
            span, counts = file.get_tensor("span"), file.get_tensor("fire_count")
        written = path.stat().st_mtime
    except (SafetensorError, OSError):
        return None
    density: NDArray[np.float64] = counts[counts > 0] / max(1, int(span[2]))
    spread = np.quantile(density, QUANTILES) if len(density) else np.full(len(QUANTILES), np.nan)
    return Interval(int(span[1]) + 1, int(span[2]), len(density), tuple(spread.tolist()), written)
