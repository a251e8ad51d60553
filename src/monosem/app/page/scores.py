"""How good explanations are: `scores/` as a page reads it, every figure beside its baselines."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from numpy.typing import NDArray

from monosem.app.page.kept import Kept
from monosem.app.page.missing import command
from monosem.app.page.sorted_file import SortedFile
from monosem.interpret.score import shown
from monosem.interpret.score.rows import SCORES, Row
from monosem.interpret.score.shown import Figure, Steered

pc: Any = pyarrow.compute  # its functions are made when it is imported, which no type checker sees
HEADLINES = (("detection", "balanced_accuracy"), ("lexical", "balanced_accuracy"))
"""What a list is filtered and ordered by: the first of these that the run has."""
Floats = NDArray[np.float64]


class ScoreFiles:
    """The scores of a run, where they have been made."""

    def __init__(self, folder: Path) -> None:
        self._run = folder
        path = folder / "scores" / SCORES
        self._rows = Kept(path, lambda path: SortedFile(path, "latent"))
        self._result = Kept(folder / "scores" / shown.RESULT, shown.read_result)
        self._headline = Kept(path, _headline)
        self._steered = Kept(folder / "scores" / shown.RESULT, lambda _: shown.steered(folder))

    def of(self, latent: int, missing: dict[str, str]) -> list[Figure]:
        """Those of a latent that a card shows; adds to `missing` the command that makes them.

        Raises:
            RunError: the file is damaged.
        """
        file, result = self._rows.get(), self._result.get()
        if file is None or result is None:
            missing["scores of explanations"] = command(self._run, "scores")
            return []
        columns = (column.to_pylist() for column in file.rows([latent], Row._fields).select(Row._fields).columns)
        return shown.of_rows((Row(*row) for row in zip(*columns, strict=True)), result).get(latent, [])

    def steered(self, latent: int) -> Steered | None:
        """What a latent does to texts, if the stage has steered by it."""
        return (self._steered.get() or {}).get(latent)

    def of_all(self, n: int) -> Floats:
        """[n] the headline score; NaN where a latent has none."""
        scores = np.full(n, np.nan)
        if (found := self._headline.get()) is not None:
            latents, values = found
            scores[latents[latents < n]] = values[latents < n]
        return scores


def _headline(path: Path) -> tuple[NDArray[np.int64], Floats]:
    """Latents that have the headline score, and its values; row group by row group, since the file holds all scores."""
    found: dict[tuple[str, str], list[pa.RecordBatch]] = {key: [] for key in HEADLINES}
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["latent", "score", "figure", "value"], use_threads=False):
            for score, figure in HEADLINES:
                held = pc.and_(pc.equal(batch["score"], score), pc.equal(batch["figure"], figure))
                found[score, figure].append(batch.filter(held))
    for batches in found.values():
        chosen = pa.Table.from_batches(batches) if batches else None
        if chosen is not None and chosen.num_rows:
            return chosen["latent"].to_numpy().astype(np.int64), chosen["value"].to_numpy().astype(np.float64)
    return np.empty(0, np.int64), np.empty(0)
