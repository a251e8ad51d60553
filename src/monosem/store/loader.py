"""Batches of activations for training, in another order each epoch, from any place on.

The store is shuffled already, row by row. An epoch takes its shards, and in a shard its blocks of `BLOCK_ROWS`, in an
order drawn from seed, epoch and shard; so a place is three numbers and needs no replay. Threads that run ahead read the
rows, and decode int8, straight into reused batch buffers. An epoch's last rows and the next one's first share a batch:
every batch is full and no row is left out. With a target, rows of two folders are read side by side. Knows nothing of
what the batches are for.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monosem.store.pairs import PairedFile, Sample, in_order, open_pairs
from monosem.store.shard_file import Extent
from monosem.store.shards import is_far

BLOCK_ROWS = 512  # consecutive rows of a shard that stay together
OPEN_FILES, FAR_OPEN_FILES = 64, 3
SHARDS, BLOCKS = 1, 2  # keep the random numbers of the two orders apart


class Cursor(NamedTuple):
    """A place in the endless sequence of rows."""

    epoch: int = 0
    shard: int = 0
    """Place in this epoch's order of shards."""
    row: int = 0
    """Rows of it that are done."""


class Batch(NamedTuple):
    """What a step trains on. Its memory is filled anew once the next batch is asked for: clone what must stay."""

    x: Tensor
    """`[B, d]`: floats as stored, int8 as float32."""
    target: Tensor
    """`[B, d_out]`: what shall be made of them; `x` itself, but for transcoders."""
    cursor: Cursor
    """The place after this batch: a loader made with it goes on there."""


class Piece(NamedTuple):
    """A run of rows of a shard that goes into a batch."""

    shard: int
    """Number of its file."""
    start: int
    """First row in the file."""
    rows: int


class Loader:
    """Iterates batches forever; the same batches for the same seed, whatever the number of workers."""

    def __init__(
        self,
        folder: Path,
        batch: int,
        seed: int,
        workers: int = 2,
        cursor: Cursor | None = None,
        target: Path | None = None,
        only: range | None = None,
    ) -> None:
        """Open a `batches` folder and check its shards.

        Args:
            batch: rows of a batch.
            workers: threads that read ahead. 0: read when asked.
            cursor: where to begin. None: at the beginning.
            target: the `batches` folder of another hook point, whose rows come as the targets.
            only: the rows of every batch that are read, where other processes read the others; cursors are those of
                whole batches. None: all.

        Raises:
            StoreError: the stage is not complete, a shard is missing or damaged, or the two folders do not pair.
        """
        self._places = [place for place in open_pairs(folder, "train-", target) if place.shard.rows]
        self._sizes = [place.shard.rows for place in self._places]
        # a shard of the cache takes room on the disk as long as it is open
        most = FAR_OPEN_FILES if any(is_far(place.own) for place in self._places) else OPEN_FILES
        self._open = lru_cache(most)(lambda number: PairedFile(self._places[number]))
        self._batch, self._seed, self._workers, self._only = batch, seed, workers, only or range(batch)
        cursor = cursor or Cursor()
        self._batches = self._read_ahead(cursor)
        first = self._open(self._shard_at(cursor.epoch, cursor.shard))
        self._empty = first.empty
        self.d, self.dtype = first.own.d, first.own.dtype

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return sum(self._sizes)

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    def close(self) -> None:
        """End the threads; there are no batches after this."""
        self._batches.close()

    def _read_ahead(self, cursor: Cursor) -> Generator[Batch]:
        """Batches from `cursor` on."""
        pinned = torch.cuda.is_available()
        buffers = [self._empty(len(self._only), pinned=pinned) for _ in range(self._workers + 2)]
        plan = self._plan(cursor)
        if not self._workers:
            for following, pieces in plan:
                self._fill(buffers[0], pieces)
                yield Batch(*buffers[0], following)
            return
        with ThreadPoolExecutor(self._workers) as pool:
            waiting: deque[tuple[Future[None], Sample, Cursor]] = deque()
            for buffer, (following, pieces) in zip(buffers, plan, strict=False):
                waiting.append((pool.submit(self._fill, buffer, pieces), buffer, following))
            while True:
                future, buffer, following = waiting.popleft()
                future.result()
                yield Batch(*buffer, following)
                following, pieces = next(plan)
                waiting.append((pool.submit(self._fill, buffer, pieces), buffer, following))

    def _fill(self, buffer: Sample, pieces: list[Piece]) -> None:
        done = 0
        for piece in pieces:
            part = slice(done, done + piece.rows)
            out = Sample(buffer.x[part], buffer.target[part])
            self._open(piece.shard).read(piece.start, piece.start + piece.rows, out)
            done += piece.rows

    def _plan(self, cursor: Cursor) -> Iterator[tuple[Cursor, list[Piece]]]:
        """Where each batch's rows lie, and the place after it."""
        while True:
            pieces: list[Piece] = []
            missing = self._batch
            while missing:
                piece, cursor = self._next_piece(cursor, missing)
                pieces.append(piece)
                missing -= piece.rows
            yield cursor, _within(pieces, self._only)

    def _next_piece(self, cursor: Cursor, most: int) -> tuple[Piece, Cursor]:
        """The rest of the cursor's block, or `most` rows of it; and the place behind."""
        epoch, place, row = cursor
        shard = self._shard_at(epoch, place)
        if row == 0:
            self._prefetch(epoch, place + 1)
        size = self._sizes[shard]
        block, within = divmod(row, BLOCK_ROWS)
        if block < size // BLOCK_ROWS:  # the rows that fill no block come last, so that a row's block is a division
            block = int(_order(self._seed, BLOCKS, epoch, shard, size // BLOCK_ROWS)[block])
        start = block * BLOCK_ROWS + within
        rows = min(most, BLOCK_ROWS - within, size - start)
        if row + rows < size:
            return Piece(shard, start, rows), Cursor(epoch, place, row + rows)
        if place + 1 < len(self._sizes):
            return Piece(shard, start, rows), Cursor(epoch, place + 1, 0)
        return Piece(shard, start, rows), Cursor(epoch + 1, 0, 0)

    def _shard_at(self, epoch: int, place: int) -> int:
        """The number of the shard at a place of an epoch's order."""
        return int(_order(self._seed, SHARDS, epoch, 0, len(self._sizes))[place])

    def _prefetch(self, epoch: int, place: int) -> None:
        """Begin to fetch the shard that is read next, if it lies elsewhere."""
        epoch, place = (epoch, place) if place < len(self._sizes) else (epoch + 1, 0)
        following = self._places[self._shard_at(epoch, place)]
        for where in (following.own, following.target):
            if where is not None and not isinstance(where, Path | Extent):
                where.prefetch()


def training(folder: Path, batch: int, limit: int | None = None, target: Path | None = None) -> Iterator[Sample]:
    """The training activations once, as `validation`."""
    return in_order(open_pairs(folder, "train-", target), batch, limit)


def validation(folder: Path, batch: int, limit: int | None = None, target: Path | None = None) -> Iterator[Sample]:
    """The held-out activations once, `[<= batch, d]` as in a `Batch`, in the order of the store; at most `limit` rows.

    Raises:
        StoreError: as `Loader`.
    """
    return in_order(open_pairs(folder, "validation-", target), batch, limit)


def _within(pieces: list[Piece], rows: range) -> list[Piece]:
    """What of `pieces`, laid end to end, falls into `rows`."""
    kept, place = [], 0
    for shard, start, count in pieces:
        first, last = max(rows.start - place, 0), min(rows.stop - place, count)
        if first < last:
            kept.append(Piece(shard, start + first, last - first))
        place += count
    return kept


@lru_cache(maxsize=16)
def _order(seed: int, what: int, epoch: int, shard: int, n: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, what, epoch, shard]).permutation(n)
