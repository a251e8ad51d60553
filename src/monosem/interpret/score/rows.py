"""The table of scores, one line for each latent, score and figure, and what it says of all latents together.

Every line has the figure's baselines beside it. Knows nothing of how a score is made.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from monosem.atomic import atomic_path
from monosem.interpret import tables
from monosem.interpret.score import measures

SCORES = "scores.parquet"
ROWS_IN_GROUP = 8192
SCHEMA = pa.schema(
    [
        ("latent", pa.int32()),
        ("score", pa.string()),
        ("figure", pa.string()),
        ("value", pa.float32()),
        ("low", pa.float32()),
        ("high", pa.float32()),
        ("shuffled", pa.float32()),
        ("shuffled_p95", pa.float32()),
        ("frequency", pa.float32()),
        ("chance", pa.float32()),
    ]
)


class Row(NamedTuple):
    """A figure of one latent's explanation."""

    latent: int
    score: str
    figure: str
    value: float
    low: float | None = None
    """Of its bootstrap interval at 95 %."""
    high: float | None = None
    shuffled: float | None = None
    """Mean of the same figure with other latents' explanations on this latent's test set."""
    shuffled_p95: float | None = None
    """Their 95th percentile."""
    frequency: float | None = None
    """The figure of what counts tokens and reads no explanation."""
    chance: float | None = None
    """The figure of guessing, where there is one number for it."""

    @property
    def beats(self) -> bool | None:
        """Whether it is above the 95th percentile of its shuffled baseline; None where there is none."""
        return None if self.shuffled_p95 is None else self.value > self.shuffled_p95

    @property
    def below_chance(self) -> bool:
        """Whether the explanation does worse than guessing."""
        return self.chance is not None and self.value < self.chance


def write(path: Path, rows: Iterable[Row]) -> int:
    """Write rows sorted by latent; figures that are NaN are left out. Returns their number."""
    kept = sorted((row for row in rows if row.value == row.value), key=lambda row: row[:3])
    columns = zip(*kept, strict=True) if kept else [[]] * len(SCHEMA)
    arrays = [
        pa.array(list(column), field.type, from_pandas=True) for column, field in zip(columns, SCHEMA, strict=True)
    ]
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(arrays, schema=SCHEMA), temporary, compression="zstd", row_group_size=ROWS_IN_GROUP)
    return len(kept)


def read(path: Path, latents: Sequence[int] | None = None) -> list[Row]:
    """All rows, or those of some latents.

    Raises:
        RunError: the file is missing or damaged.
    """
    table = pq.read_table(path) if latents is None else tables.read_sorted(path, "latent", latents)
    return [Row(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


def aggregate(rows: Iterable[Row], seed: int) -> dict[str, dict[str, Any]]:
    """By score, then figure, what holds over all latents that have it.

    `mean` with its bootstrap interval over latents (`low`, `high`), the baselines' means, the share that beats the 95th
    percentile of its shuffled baseline, and how many are below chance.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.score, row.figure), []).append(row)
    found: dict[str, dict[str, Any]] = {}
    for (score, name), group in sorted(groups.items()):
        value = np.array([row.value for row in group])
        low, high = measures.mean_interval(value, seed)
        figure: dict[str, Any] = {"latents": len(group), "mean": float(value.mean()), "low": low, "high": high}
        for baseline in ("shuffled", "frequency", "chance"):
            figure |= _mean(baseline, [getattr(row, baseline) for row in group])
        beats = [row.beats for row in group if row.beats is not None]
        if beats:
            figure["beat_shuffled_p95"] = sum(beats)
        if "chance" in figure:
            figure["below_chance"] = sum(row.below_chance for row in group)
        found.setdefault(score, {})[name] = figure
    return found


def values(rows: Iterable[Row], score: str, figure: str, column: str = "value") -> NDArray[np.float64]:
    """One column of a figure, over the latents that have it."""
    chosen = (getattr(row, column) for row in rows if (row.score, row.figure) == (score, figure))
    return np.array([value for value in chosen if value is not None], dtype=np.float64)


def _mean(name: str, found: Sequence[float | None]) -> dict[str, float]:
    there = [value for value in found if value is not None]
    return {name: float(np.mean(there))} if there else {}
