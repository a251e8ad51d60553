"""Batches out of a ring of two halves, each of which holds the activations of a window of sentences.

A window's rows are split at random: one part is served together with what the window before has left, the other with
the window that comes next. So the ring is refilled when half of it is used, batches mix sentences from all of it, and
what it holds depends on two windows alone. Knows nothing of language models.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from monosem.finetune.reader import Place
from monosem.store.loader import Batch, Cursor

SPLIT, ORDER = 1, 2  # keep the random numbers of the two apart
Rows = tuple[Tensor, ...]
"""`[R, d]` of every hook point."""


class Window(NamedTuple):
    """Sentences that are in one half of the ring together."""

    start: Place
    sentences: list[list[int]]
    """Token ids."""


class _Half(NamedTuple):
    """A window in the ring."""

    start: Place
    now: Tensor
    """`[A]` places in the ring, of the rows that are served first."""
    later: Tensor
    """`[B]`"""


class Feed:
    """Batches without end from the windows behind a place; `monosem.train.source.Feed`.

    Args:
        ring: `[rows, d]` of every hook point, to be filled; the first is what is read, the last the target.
        read: the activations of sentences, in parts; together at most half as many as the ring has.
        windows: those from a place on.
        batch: rows of a batch.
        seed: decides the order.
        cursor: where to begin. Its `shard` is the number of the sentence that the window before begins with, plus one,
            or 0 where there is none; its `row` the rows that were served since.
    """

    def __init__(
        self,
        ring: Sequence[Tensor],
        read: Callable[[Sequence[Sequence[int]]], Iterable[Rows]],
        windows: Callable[[Place], Iterator[Window]],
        batch: int,
        seed: int,
        cursor: Cursor,
    ) -> None:
        self._ring, self._read, self._windows, self._seed = ring, read, windows, seed
        self._out = [room.new_empty(batch, room.shape[1]) for room in ring]
        self._batches = self._run(cursor)

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    def close(self) -> None:
        """There are no batches after this."""
        self._batches.close()

    def _run(self, cursor: Cursor) -> Generator[Batch]:
        windows = self._windows(Place(cursor.epoch, max(0, cursor.shard - 1)))
        before = self._load(next(windows), 0) if cursor.shard else None
        served, filled, half = cursor.row, 0, 0
        for window in windows:
            half = 1 - half
            current = self._load(window, half)
            order = self._order(before, current)
            while served < len(order):
                count = min(len(self._out[0]) - filled, len(order) - served)
                for out, room in zip(self._out, self._ring, strict=True):
                    chosen = order[served : served + count]
                    torch.index_select(room, 0, chosen, out=out[filled : filled + count])
                served, filled = served + count, filled + count
                if filled == len(self._out[0]):
                    filled = 0
                    yield Batch(self._out[0], self._out[-1], _cursor(before, served))
            before, served = current, 0

    def _load(self, window: Window, half: int) -> _Half:
        """Read a window into a half of the ring."""
        first = stop = half * (len(self._ring[0]) // 2)
        for rows in self._read(window.sentences):
            for room, part in zip(self._ring, rows, strict=True):
                room[stop : stop + len(part)] = part
            stop += len(rows[0])
        assert stop - first <= len(self._ring[0]) // 2, "a window is larger than half of the ring"
        places = first + np.random.default_rng([self._seed, SPLIT, *window.start]).permutation(stop - first)
        now, later = np.array_split(places, 2)
        return _Half(window.start, self._at(now), self._at(later))

    def _order(self, before: _Half | None, current: _Half) -> Tensor:
        served = current.now if before is None else torch.cat([before.later, current.now])
        return served[self._at(np.random.default_rng([self._seed, ORDER, *current.start]).permutation(len(served)))]

    def _at(self, places: np.ndarray) -> Tensor:
        return torch.from_numpy(places).to(self._ring[0].device)


def _cursor(before: _Half | None, served: int) -> Cursor:
    return Cursor(0, 0, served) if before is None else Cursor(before.start.epoch, before.start.row + 1, served)
