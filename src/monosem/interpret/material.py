"""The sentences that a prompt shows: the best of a latent's examples, each firing token marked with its strength.

Reads the Parquet files of `examples/` a block of latents at a time; memory does not grow with their number.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from monosem.interpret import tables

LATENTS_AT_ONCE = 4096
STRONGEST = 10


class Material(NamedTuple):
    """What is shown of one latent."""

    latent: int
    sentences: list[int]
    """Their numbers in the corpus, best first."""
    lines: list[str]


class _Sentences(NamedTuple):
    """Texts with the spans of their tokens, sorted by number."""

    number: NDArray[np.int64]
    text: list[str]
    offsets: NDArray[np.int64]
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]


def read(folder: Path, latents: Sequence[int], aggregation: str, most: int) -> Iterator[Material]:
    """The best `most` examples of each of `latents` (ascending) by one aggregation; latents without any are left out.

    Args:
        folder: `examples/` of a run.

    Raises:
        RunError: its files are missing or damaged.
    """
    maximum = pq.read_table(folder / tables.LATENTS, columns=["max"])["max"].to_numpy()
    for start in range(0, len(latents), LATENTS_AT_ONCE):
        rows = _best(folder, latents[start : start + LATENTS_AT_ONCE], aggregation, most)
        shown = _read_sentences(folder / tables.SENTENCES, np.unique(rows["sentence"].to_numpy()))
        lines = _mark(rows, shown, maximum)
        latent = rows["latent"].to_numpy()
        edges = np.flatnonzero(np.diff(latent, prepend=-1, append=-1))
        sentence = rows["sentence"].to_pylist()
        for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            yield Material(int(latent[a]), sentence[a:b], lines[a:b])


def _best(folder: Path, latents: Sequence[int], aggregation: str, most: int) -> pa.Table:
    """Rows of `examples.parquet`, by latent and rank."""
    rows = tables.read_sorted(folder / tables.EXAMPLES, "latent", latents)
    return rows.filter((pc.field("aggregation") == aggregation) & (pc.field("rank") < most)).combine_chunks()


def _read_sentences(path: Path, wanted: NDArray[np.int64]) -> _Sentences:
    """The wanted sentences; row groups are read one by one, and only what is wanted of them is kept."""
    pieces = []
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            kept = np.isin(file.read_row_group(group, columns=["sentence"])["sentence"].to_numpy(), wanted)
            if kept.any():
                table = file.read_row_group(group, columns=["sentence", "text", "starts", "ends"])
                pieces.append(table.filter(pa.array(kept)))
    found = pa.concat_tables(pieces).combine_chunks() if pieces else tables.SENTENCES_SCHEMA.empty_table()
    starts, ends = _flat(found["starts"]), _flat(found["ends"])
    return _Sentences(found["sentence"].to_numpy(), found["text"].to_pylist(), starts[0], starts[1], ends[1])


def _flat(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """A column of lists as offsets and values."""
    lists = column.combine_chunks()
    return lists.offsets.to_numpy().astype(np.int64) - lists.offsets[0].as_py(), lists.flatten().to_numpy()


def _mark(rows: pa.Table, shown: _Sentences, maximum: NDArray[np.float32]) -> list[str]:
    """Each row's sentence, with its firing tokens as `<<token>>(strength)`."""
    offsets, position = _flat(rows["positions"])
    _, value = _flat(rows["values"])
    place = np.searchsorted(shown.number, rows["sentence"].to_numpy())
    counts = np.diff(offsets)
    token = np.repeat(shown.offsets[place], counts) + position
    share = value / np.repeat(maximum[rows["latent"].to_numpy()], counts)
    strength = np.clip(np.ceil(STRONGEST * share), 1, STRONGEST).astype(int).tolist()
    start, end = shown.starts[token].tolist(), shown.ends[token].tolist()
    lines = []
    for sentence, a, b in zip(place.tolist(), offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        text, pieces, behind = shown.text[sentence], [], 0
        for i in range(a, b):
            marked = text[start[i] : end[i]].lstrip()
            pieces += (text[behind : end[i] - len(marked)], "<<", marked, f">>({strength[i]})")
            behind = end[i]
        lines.append(" ".join("".join((*pieces, text[behind:])).splitlines()))
    return lines
