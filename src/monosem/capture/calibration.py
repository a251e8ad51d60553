"""What is measured once, before the first unit, and holds for every unit, rank and restart; kept beside the shards."""

import json
from pathlib import Path
from typing import NamedTuple

import torch

from monosem.atomic import write_text
from monosem.capture.reading import Captured
from monosem.store.encoding import Format, centre_of, row_bytes

FILE = "calibration.json"
LENGTH_SENTENCES, NORM_SENTENCES = 2048, 128  # spread over the corpus, that length and norm are measured on
ORIGIN_BYTES = 16  # of sentence, position and token, a row


class Calibration(NamedTuple):
    """Of one hook point."""

    d: int
    sentences_per_unit: int
    tokens_per_sentence: float
    median_norm: float
    norm_threshold: float | None
    """Activations with a larger norm are dropped. None: none are."""
    centre: list[float]
    """`[d]`, their mean without sinks."""

    @classmethod
    def of(
        cls, captured: Captured, tokens_per_sentence: float, sentences_per_unit: int, norm_ratio: float
    ) -> "Calibration":
        """Of activations that are kept in float32.

        Args:
            norm_ratio: the threshold as a multiple of the median norm. 0: none.
        """
        median = float(captured.norms[captured.norms.isfinite()].median())
        centre = centre_of(captured.stored.activations, captured.norms)
        threshold = median * norm_ratio or None
        return cls(len(centre), sentences_per_unit, tokens_per_sentence, median, threshold, centre.tolist())

    @classmethod
    def load(cls, folder: Path) -> "Calibration | None":
        """From a hook point's folder. None: there is none of this version, and measuring again gives the same."""
        try:
            found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return cls(**found) if set(found) == set(cls._fields) else None

    def save(self, folder: Path) -> None:
        write_text(folder / FILE, json.dumps(self._asdict(), indent=2) + "\n")

    def format(self, dtype: torch.dtype) -> Format:
        return Format(dtype, torch.tensor(self.centre))


def stored_bytes(dtype: torch.dtype, d: int) -> int:
    """Bytes of a row of width `d`, with where it comes from."""
    return row_bytes(dtype, d) + ORIGIN_BYTES
