"""placeholder"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Score(NamedTuple):
    name: str
    value: float
    baseline: float | None
    verdict: str


class ScoreFiles:
    def __init__(self, folder: Path) -> None:
        self._run = folder

    def of(self, latent: int) -> list[Score]:
        return []

    def of_all(self, n: int) -> NDArray[np.float64]:
        return np.full(n, np.nan)
