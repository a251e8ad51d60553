"""Latents by words: which explanations and example sentences of a finished run hold them. Knows no model and no SAE."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from monosem.interpret import tables
from monosem.interpret.cards import read_explanations, read_statistics


class Hit(NamedTuple):
    """A latent that a search found."""

    latent: int
    explanation: str | None
    certainty: float | None
    in_explanation: bool
    sentences: int
    """Of its example sentences, how many hold the words."""
    share: float
    """The same as a share of all its example sentences."""


def find(run_folder: Path, words: str, limit: int = 20) -> list[Hit]:
    """The latents whose explanation or example sentences hold all the words, best first.

    A word is found at the beginning of words, whatever its case and accents. Latents whose explanation holds the words
    come first, by certainty; then those with the largest share of sentences that hold them.

    Raises:
        RunError: the run has no examples.
    """
    wanted = fold(words).split()
    if not wanted:
        return []
    n = read_statistics(run_folder).num_rows
    explained = {row["latent"]: row for row in read_explanations(run_folder)}
    found, total = _holding(run_folder, wanted, n)
    hits = []
    for latent in range(n):
        row = explained.get(latent, {})
        inside = row.get("explanation") is not None and _holds(row["explanation"], wanted)
        if inside or found[latent]:
            share = float(found[latent] / max(total[latent], 1))
            hits.append(Hit(latent, row.get("explanation"), row.get("certainty"), inside, int(found[latent]), share))
    hits.sort(key=lambda hit: (-(1 + (hit.certainty or 0)) * hit.in_explanation - hit.share, hit.latent))
    return hits[:limit]


def fold(text: str) -> str:
    """Lower case without accents, a space for whatever is no letter or digit: what search compares."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return re.sub(r"[\W_]+", " ", "".join(c for c in decomposed if not unicodedata.combining(c)))


def _holds(text: str, wanted: Sequence[str]) -> bool:
    folded = f" {fold(text)}"
    return all(f" {word}" in folded for word in wanted)


def _holding(run_folder: Path, wanted: Sequence[str], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each latent: example sentences that hold the words, and all its example sentences; none counts twice."""
    folder = run_folder / "examples"
    texts = pq.read_table(folder / tables.SENTENCES, columns=["sentence", "text"])
    holds = np.array([_holds(text, wanted) for text in texts["text"].to_pylist()], dtype=bool)
    held = texts["sentence"].to_numpy()[holds]
    pairs = pq.read_table(folder / tables.EXAMPLES, columns=["latent", "sentence"])
    sentence = pairs["sentence"].to_numpy()
    size = int(sentence.max(initial=0)) + 1
    keys = np.unique(pairs["latent"].to_numpy().astype(np.int64) * size + sentence)
    latent = keys // size
    found = np.bincount(latent[np.isin(keys % size, held)], minlength=n)
    return found, np.bincount(latent, minlength=n)
