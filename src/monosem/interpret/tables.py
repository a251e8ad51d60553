"""The Parquet files of examples/: how they are written, and how one latent is read without the rest.

`examples.parquet` is sorted by (latent, aggregation, rank) in small row groups, whose statistics lead to one latent in
milliseconds; so are `negatives.parquet` and `test.parquet`, by kind. `sentences.parquet` holds the sentences that
occur, by number; `latents.parquet` one row for each latent. Every file is written in pieces: memory does not grow with
it.
"""

from collections.abc import Iterator, Mapping, Sequence
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
NEGATIVES, TEST = "negatives.parquet", "test.parquet"
PARTNERS, COSINES, CLUSTERS = "partners.parquet", "cosines.parquet", "clusters.parquet"
GROUPS = "groups.parquet"
ROWS_IN_GROUP = 8192
SENTENCES_IN_GROUP = 1024
LATENTS_IN_GROUP = 1024  # where a row holds the tokens that a latent raises and lowers


def _firing_schema(kind: str) -> pa.Schema:
    return pa.schema(
        [
            ("latent", pa.int32()),
            (kind, pa.string()),
            ("rank", pa.int16()),
            ("sentence", pa.int64()),
            ("value", pa.float32()),
            ("positions", pa.list_(pa.int16())),
            ("values", pa.list_(pa.float32())),
            ("tokens", pa.list_(pa.int32())),
        ]
    )


EXAMPLES_SCHEMA, TEST_SCHEMA = _firing_schema("aggregation"), _firing_schema("kind")
NEGATIVES_SCHEMA = pa.schema(list(TEST_SCHEMA)[:5])
SENTENCES_SCHEMA = pa.schema(
    [
        ("sentence", pa.int64()),
        ("document", pa.int64()),
        ("title", pa.string()),
        ("label", pa.string()),
        ("text", pa.string()),
        ("test", pa.bool_()),
        ("starts", pa.list_(pa.int32())),
        ("ends", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.int32())),
        ("missing", pa.list_(pa.int16())),
    ]
)


def write_by_latent(path: Path, pieces: "Iterator[Mapping[str, Entries]]", schema: pa.Schema) -> int:
    """Write a file sorted by (latent, kind, rank); returns the number of rows.

    Args:
        pieces: by kind, entries by latent, then rank; each piece holds latents beyond those of the one before.
        schema: `EXAMPLES_SCHEMA`, `NEGATIVES_SCHEMA` or `TEST_SCHEMA`.
    """
    written = 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for piece in pieces:
            table = _by_latent(piece, schema)
            if table.num_rows:  # an empty row group has no statistics
                writer.write_table(table, row_group_size=ROWS_IN_GROUP)
                written += table.num_rows
    return written


def _by_latent(piece: "Mapping[str, Entries]", schema: pa.Schema) -> pa.Table:
    from monosem.interpret.ranking import concatenate, rank_within

    names = sorted(piece)
    which = np.repeat(np.arange(len(names)), [len(piece[name].latent) for name in names])
    rank = np.concatenate([rank_within(piece[name].latent) for name in names])
    joined = concatenate([piece[name] for name in names])
    order = np.lexsort((rank, which, joined.latent))
    joined = joined.take(order)
    offsets = pa.array(np.append(0, np.cumsum(joined.length)).astype(np.int32))
    columns = [
        pa.array(joined.latent),
        pa.array(np.array(names, dtype=object)[which[order]], type=pa.string()),
        pa.array(rank[order].astype(np.int16)),
        pa.array(joined.sentence),
        pa.array(joined.score),
        *(pa.ListArray.from_arrays(offsets, pa.array(of)) for of in (joined.position, joined.value, joined.token)),
    ]
    return pa.Table.from_arrays(columns[: len(schema)], schema=schema)


def write_sentences(path: Path, pieces: Iterator[pa.Table]) -> int:
    """Write `sentences.parquet` from tables in the order of their sentences; returns the number of rows."""
    written = 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, SENTENCES_SCHEMA, compression="zstd") as writer:
        for table in pieces:
            writer.write_table(
                table.select(SENTENCES_SCHEMA.names).cast(SENTENCES_SCHEMA), row_group_size=SENTENCES_IN_GROUP
            )
            written += table.num_rows
    return written


def write_latents(path: Path, collector: "Collector") -> int:
    """Write `latents.parquet`; returns the number of latents that never fired."""
    counted = collector.statistics
    table = pa.table(
        {
            "latent": np.arange(collector.n, dtype=np.int32),
            "fire_count": counted.fire_count,
            "density": counted.fire_count / max(collector.rows, 1),
            "max": counted.max,
            "mean": counted.mean.astype(np.float32),
            "sentence_count": counted.sentence_count,
            "test_sentence_count": counted.test_sentence_count,
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
        raise RunError(f"{path}: no such file; make it with: monosem {path.parent.name} RECIPE") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise RunError(f"{path}: damaged ({error}); make it again with --redo {path.parent.name}") from None
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
