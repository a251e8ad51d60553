"""A Parquet file sorted by one column, of which a page reads a few values at a time.

The footer is read once and its statistics become two arrays: finding the row groups of a latent among thousands costs
microseconds, and nothing else is read. Opened anew for every read, so threads share no handle.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from monosem.errors import RunError

MOST_KEPT = 2  # row groups


class SortedFile:
    """The footer of a Parquet file sorted by `column`, integers.

    Raises:
        RunError: the file is damaged.
    """

    def __init__(self, path: Path, column: str) -> None:
        self._path, self._column = path, column
        try:
            self._metadata = pq.read_metadata(path)
            names = self._metadata.schema.to_arrow_schema().names
            self.columns: frozenset[str] = frozenset(names)
            place = names.index(column)
            groups = (self._metadata.row_group(group).column(place) for group in range(self._metadata.num_row_groups))
            bounds = [(part.statistics.min, part.statistics.max) for part in groups]
        except (pa.ArrowInvalid, OSError, ValueError, AttributeError) as error:
            raise _damaged(path, error) from None
        self._low, self._high = np.array(bounds, dtype=np.int64).reshape(-1, 2).T
        self._last: tuple[tuple[int, ...], list[str] | None, pa.Table] | None = None

    def rows(self, wanted: Sequence[int] | NDArray[np.int64], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows that have one of the wanted values, in the file's order; `columns`: only these.

        Raises:
            RunError: the file is damaged.
        """
        values = np.unique(np.asarray(wanted, dtype=np.int64))
        read = None if columns is None else [*dict.fromkeys([self._column, *columns])]
        table = self._read(tuple(self._groups(values).tolist()), read)
        return table.filter(pa.array(np.isin(table[self._column].to_numpy(), values)))

    def _read(self, groups: tuple[int, ...], columns: list[str] | None) -> pa.Table:
        """These row groups. The last ones are kept: a reader who goes on to the next latent stays in them mostly."""
        last = self._last
        if last is not None and last[:2] == (groups, columns):
            return last[2]
        try:
            with pq.ParquetFile(self._path, metadata=self._metadata) as file:
                table = file.read_row_groups(list(groups), columns=columns, use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(self._path, error) from None
        if len(groups) <= MOST_KEPT:
            self._last = groups, columns, table
        return table

    def _groups(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row groups whose smallest and largest value enclose a wanted one."""
        first = np.searchsorted(self._high, values, side="left")
        behind = np.searchsorted(self._low, values, side="right")
        return np.unique(np.concatenate([np.arange(*pair) for pair in zip(first, behind, strict=True)] or [[]]))


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Whole columns of a file. `pq.read_table` does the same, and imports what reads folders and filters first: a third
    of a second that the first card would wait for."""
    with pq.ParquetFile(path) as file:
        return file.read(columns=list(columns), use_threads=False)


def _damaged(path: Path, error: Exception) -> RunError:
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    return RunError(f"{path}: damaged ({why}); make it again with --redo {path.parent.name}")
