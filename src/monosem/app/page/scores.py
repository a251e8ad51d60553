"""How good explanations are: `scores/scores.parquet` as a page reads it, every figure beside its baselines."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from monosem.app.page.kept import Kept
from monosem.app.page.missing import command
from monosem.app.page.sorted_file import SortedFile

SCORES = "scores.parquet"
HEADLINES = (
    ("detection", "balanced_accuracy"),
    ("detection", "auroc"),
    ("lexical", "balanced_accuracy"),
    ("lexical", "auroc"),
)
"""What a list is filtered and ordered by: the first of these that the run has."""


class Score(NamedTuple):
    """One figure of one latent's explanation."""

    name: str
    value: float
    interval: tuple[float, float] | None
    """At 95 %."""
    baseline: float | None
    """Of shuffled explanations, on average; else of counting tokens; else of guessing."""
    baseline_is: str
    verdict: str
    """Against its baselines, in words."""
    below_chance: bool


class ScoreFiles:
    """The scores of a run, where they have been made."""

    def __init__(self, folder: Path) -> None:
        self._run = folder
        path = folder / "scores" / SCORES
        self._rows = Kept(path, lambda path: SortedFile(path, "latent"))
        self._headline = Kept(path, _headline)

    def of(self, latent: int, missing: dict[str, str]) -> list[Score]:
        """Those of a latent that have a baseline; adds to `missing` the command that makes them.

        Raises:
            RunError: the file is damaged.
        """
        file = self._rows.get()
        if file is None:
            missing["scores"] = command(self._run, "scores")
            return []
        return [score for score in map(_score, file.rows([latent]).to_pylist()) if score.baseline is not None]

    def of_all(self, n: int) -> NDArray[np.float64]:
        """[n] the headline score; NaN where a latent has none."""
        scores = np.full(n, np.nan)
        if (found := self._headline.get()) is not None:
            latents, values = found
            scores[latents[latents < n]] = values[latents < n]
        return scores


def _headline(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    for score, figure in HEADLINES:
        wanted = [("score", "=", score), ("figure", "=", figure)]
        chosen = pq.read_table(path, columns=["latent", "value"], filters=wanted)
        if chosen.num_rows:
            return chosen["latent"].to_numpy().astype(np.int64), chosen["value"].to_numpy().astype(np.float64)
    return np.empty(0, np.int64), np.empty(0)


def _score(row: dict[str, Any]) -> Score:
    high, chance = row["shuffled_p95"], row["chance"]
    below = chance is not None and row["value"] < chance
    baseline, named = next(
        ((row[key], key) for key in ("shuffled", "frequency", "chance") if row[key] is not None), (None, "")
    )
    if below:
        verdict = f"below chance ({chance:.3g})"
    elif high is not None:
        verdict = "above" if row["value"] > high else "not above"
        verdict += f" 95 % of shuffled ones ({high:.3g})"
    else:
        verdict = ""
    interval = None if row["low"] is None or row["high"] is None else (row["low"], row["high"])
    name = f"{row['score']}, {row['figure']}".replace("_", " ")
    return Score(name, row["value"], interval, baseline, named, verdict, below)
