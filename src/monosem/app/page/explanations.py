"""`explanations.jsonl` as a page reads it: where each latent's lines are, and what all of them say in short.

The line index costs one scan of the file's bytes; a card parses its own lines alone. Texts and certainties of all
latents, which search and filters need, are parsed once, later.
"""

import json
import mmap
import re
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from monosem.app.page.folding import Folded

_LATENT = re.compile(rb'^\{"latent": ?(\d+),', re.MULTILINE)


class Explanations:
    """The explanations of a run; a latent may have several, of different providers or aggregations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[int, list[int]] = defaultdict(list)
        with path.open("rb") as file:
            if file.seek(0, 2):
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    for match in _LATENT.finditer(content):
                        self._offsets[int(match[1])].append(match.start())
        self._all: tuple[dict[int, str], dict[int, float]] | None = None

    def of(self, latent: int) -> list[dict[str, Any]]:
        """The objects of one latent, in the file's order; a line that is half written is left out."""
        found = []
        with self._path.open("rb") as file:
            for offset in self._offsets.get(latent, []):
                file.seek(offset)
                if row := _parsed(file.readline()):
                    found.append(row)
        return found

    @property
    def texts(self) -> dict[int, str]:
        """The best explanation of every latent that has one: `best`."""
        return self._parse()[0]

    def certainty(self, n: int) -> np.ndarray:
        """[n] float64: certainty of the best explanation; NaN where there is none."""
        values = np.full(n, np.nan)
        for latent, certainty in self._parse()[1].items():
            if latent < n:
                values[latent] = certainty
        return values

    @cached_property
    def folded(self) -> tuple[NDArray[np.int64], Folded]:
        """Latents that are explained, and their best explanations as search compares them."""
        texts = self.texts
        return np.fromiter(texts, np.int64, len(texts)), Folded(pa.chunked_array([list(texts.values())], pa.string()))

    def _parse(self) -> tuple[dict[int, str], dict[int, float]]:
        if self._all is None:
            rows: dict[int, list[dict[str, Any]]] = defaultdict(list)
            with self._path.open("rb") as file:
                for line in file:
                    row = _parsed(line)
                    if row and row.get("explanation"):
                        kept = {"explanation": row["explanation"], "certainty": row.get("certainty")}
                        rows[row["latent"]].append(kept)
            chosen = {latent: best(found) for latent, found in rows.items()}
            texts = {latent: row["explanation"] for latent, row in chosen.items() if row}
            sure = {latent: row["certainty"] for latent, row in chosen.items() if row and row["certainty"] is not None}
            self._all = texts, sure
        return self._all


def best(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The explanation to show first: the most certain of those that say something, the first of equals."""
    said = [row for row in rows if row.get("explanation")]
    return max(said, key=lambda row: row.get("certainty") or 0.0, default=None)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("latent"), int) else None
