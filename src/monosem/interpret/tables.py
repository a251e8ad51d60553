"""The Parquet files of examples/: how they are written, and how one latent is read without the rest.

`examples.parquet` is sorted by (latent, aggregation, rank) in small row groups, whose statistics lead to one latent in
milliseconds. `sentences.parquet` holds the sentences that occur, by number; `latents.parquet` one row for each latent.
Every file is written in pieces: memory does not grow with it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from monosem.atomic import atomic_path
from monosem.errors import RunError

if TYPE_CHECKING:  # they need torch; readers of the files do not
    from monosem.interpret.collect import Collector
    from monosem.interpret.ranking import Entries

EXAMPLES, SENTENCES, LATENTS = "examples.parquet", "sentences.parquet", "latents.parquet"
ROWS_IN_GROUP = 8192
EXAMPLES_SCHEMA = pa.schema(
    [
        ("latent", pa.int32()),
        ("aggregation", pa.string()),
        ("rank", pa.int16()),
        ("sentence", pa.int64()),
        ("value", pa.float32()),
        ("positions", pa.list_(pa.int16())),
        ("values", pa.list_(pa.float32())),
    ]
)
SENTENCES_SCHEMA = pa.schema(
    [
        ("sentence", pa.int64()),
        ("document", pa.int64()),
        ("title", pa.string()),
        ("label", pa.string()),
        ("text", pa.string()),
        ("starts", pa.list_(pa.int32())),
        ("ends", pa.list_(pa.int32())),
    ]
)


def write_examples(path: Path, collector: "Collector") -> int:
    """Write `examples.parquet`; returns the number of rows."""
    names = sorted(collector.aggregations)
    written = 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, EXAMPLES_SCHEMA, compression="zstd") as writer:
        for parts in zip(*(collector.parts(name) for name in names), strict=True):
            table = _examples_table(parts, names)
            if table.num_rows:  # an empty row group has no statistics
                writer.write_table(table, row_group_size=ROWS_IN_GROUP)
                written += table.num_rows
    return written


def _examples_table(parts: "Sequence[Entries]", names: Sequence[str]) -> pa.Table:
    from monosem.interpret.ranking import concatenate, rank_within

    which = np.repeat(np.arange(len(parts)), [len(part.latent) for part in parts])
    rank = np.concatenate([rank_within(part.latent) for part in parts])
    joined = concatenate(list(parts))
    order = np.lexsort((rank, which, joined.latent))
    joined = joined.take(order)
    offsets = pa.array(np.append(0, np.cumsum(joined.length)).astype(np.int32))
    columns = [
        pa.array(joined.latent),
        pa.array(np.array(names, dtype=object)[which[order]], type=pa.string()),
        pa.array(rank[order].astype(np.int16)),
        pa.array(joined.sentence),
        pa.array(joined.score),
        pa.ListArray.from_arrays(offsets, pa.array(joined.position)),
        pa.ListArray.from_arrays(offsets, pa.array(joined.value)),
    ]
    return pa.Table.from_arrays(columns, schema=EXAMPLES_SCHEMA)


def write_sentences(path: Path, pieces: Iterator[pa.Table]) -> int:
    """Write `sentences.parquet` from tables in the order of their sentences; returns the number of rows."""
    written = 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, SENTENCES_SCHEMA, compression="zstd") as writer:
        for table in pieces:
            writer.write_table(table.cast(SENTENCES_SCHEMA), row_group_size=1024)
            written += table.num_rows
    return written


def write_latents(path: Path, collector: "Collector") -> int:
    """Write `latents.parquet`; returns the number of latents that never fired."""
    counted = collector.statistics
    fired = np.maximum(counted.fire_count, 1)
    table = pa.table(
        {
            "latent": np.arange(collector.n, dtype=np.int32),
            "fire_count": counted.fire_count,
            "density": counted.fire_count / max(collector.rows, 1),
            "max": counted.max,
            "mean": (counted.total / fired).astype(np.float32),
            "sentence_count": counted.sentence_count,
        }
    )
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return int((counted.fire_count == 0).sum())


def read_sorted(path: Path, column: str, wanted: Sequence[int] | np.ndarray) -> pa.Table:
    """The rows of a file sorted by `column` where it has one of the `wanted` values; other row groups are not read.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            groups = _groups_with(file, column, np.unique(np.asarray(wanted, dtype=np.int64)))
            table = file.read_row_groups(groups)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; make it with: monosem examples RECIPE") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise RunError(f"{path}: damaged ({error}); make it again with --redo examples") from None
    return table.filter(pa.array(np.isin(table[column].to_numpy(), wanted)))


def _groups_with(file: pq.ParquetFile, column: str, wanted: np.ndarray) -> list[int]:
    """Row groups whose smallest and largest value enclose a wanted one."""
    place = file.schema_arrow.names.index(column)
    found = []
    for group in range(file.metadata.num_row_groups):
        statistics = file.metadata.row_group(group).column(place).statistics
        low, high = np.searchsorted(wanted, [statistics.min, statistics.max + 1])
        if low < high:
            found.append(group)
    return found
