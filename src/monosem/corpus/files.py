"""Rows of local Parquet, JSONL and text files, from any row on.

A text file's rows are its blocks of lines between empty lines, so that a headline does not run into the next paragraph
and a file of any size is read piece by piece.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Protocol, TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from monosem.errors import CorpusError

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".txt")
BATCH_ROWS = 1024


class Reader(Protocol):
    """The rows of one file."""

    path: Path

    def count(self) -> int: ...

    def rows(self, skip: int, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """The rows after the first `skip`, with at least those of `fields` that the file has."""
        ...


def readers(path: Path) -> list[Reader]:
    """Readers of a file, or of all files below a folder in the order of their names.

    Raises:
        CorpusError: a file of another kind, or a folder without any.
    """
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))
    if not found:
        raise CorpusError(f"{path}: no file that ends in {', '.join(SUFFIXES)} in this folder")
    return [_reader(file) for file in found]


def _reader(path: Path) -> Reader:
    for suffix, reader in ((".parquet", ParquetReader), (".txt", TextReader), (".jsonl", JsonReader)):
        if path.name.removesuffix(".gz").endswith(suffix):
            return reader(path)
    raise CorpusError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")


class ParquetReader:
    """Rows of a Parquet file, read a few row groups' columns at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def count(self) -> int:
        with self._open() as file:
            return file.metadata.num_rows

    def rows(self, skip: int, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        with self._open() as file:
            names = file.schema_arrow.names
            # every column where one is missing, so that the error can name those there are
            columns = [name for name in fields if name in names] if fields[0] in names else names
            groups = []
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if not groups and size <= skip:
                    skip -= size
                else:
                    groups.append(group)
            for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns):
                kept = batch.slice(min(skip, len(batch)))
                skip -= len(batch) - len(kept)
                yield from kept.to_pylist()

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path)
        except pa.ArrowInvalid as error:
            raise CorpusError(f"{self.path}: not a Parquet file ({str(error).splitlines()[0]})") from None


class JsonReader:
    """One JSON object a line; empty lines are passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def count(self) -> int:
        return sum(1 for _ in self._lines())

    def rows(self, skip: int, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        del fields
        for number, line in islice(self._lines(), skip, None):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise CorpusError(f"{self.path}: line {number} is not JSON ({error})") from None
            if not isinstance(row, dict):
                raise CorpusError(f"{self.path}: line {number} is not a JSON object")
            yield row

    def _lines(self) -> Iterator[tuple[int, str]]:
        with _open_text(self.path) as file:
            yield from ((number, line) for number, line in enumerate(_checked(file, self.path), 1) if line.strip())


class TextReader:
    """Blocks of lines between empty lines; the title is the name of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def count(self) -> int:
        return sum(1 for _ in self._blocks())

    def rows(self, skip: int, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        for block in islice(self._blocks(), skip, None):
            yield {"title": self.path.name, fields[0]: block}

    def _blocks(self) -> Iterator[str]:
        with _open_text(self.path) as file:
            for blank, lines in groupby(_checked(file, self.path), key=lambda line: not line.strip()):
                if not blank:
                    yield "".join(lines)


def _open_text(path: Path) -> TextIO:
    opener = gzip.open if path.name.endswith(".gz") else Path.open
    return cast(TextIO, opener(path, "rt", encoding="utf-8"))


def _checked(file: TextIO, path: Path) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise CorpusError(f"{path}: damaged gzip file ({error})") from None
