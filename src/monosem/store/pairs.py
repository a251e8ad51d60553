"""Two hook points of one capture, row by row: what a transcoder reads, and what it shall make of it.

A capture drops a token at all of its hook points or at none, and `prepare` shuffles each of them in the same way; so
row r of a shard and row r of its namesake belong to one token. That is not taken on trust: the two folders must have
the same shards, and the rows of two namesakes the same sentences and positions.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.errors import StoreError
from monosem.run import Shard
from monosem.store.shard_file import ShardFile, Where
from monosem.store.shards import open_shards, where_of

ORIGIN = ("sentence", "position")
MEND = "capture both hook points in one run, in one format: --redo capture makes them again"


class Sample(NamedTuple):
    """Some activations, and what an SAE shall make of them."""

    x: Tensor
    """`[B, d]`: floats as stored, int8 as float32."""
    target: Tensor
    """`[B, d_out]`: `x` itself, but for transcoders."""


class PairedPlace(NamedTuple):
    """A shard that has not been opened."""

    shard: Shard
    own: Where
    target: Where | None
    """Its namesake of the other hook point, if there is one."""


class PairedFile:
    """A shard, with its namesake of another hook point where there is one; safe to use from several threads."""

    def __init__(self, place: PairedPlace) -> None:
        """Open both, and compare where their rows come from.

        Raises:
            StoreError: as `ShardFile`, or the rows are not those of the same tokens.
        """
        self.own = ShardFile(place.own)
        self.target = None if place.target is None else ShardFile(place.target)
        if self.target is not None and not all(map(self._agrees, ORIGIN)):
            raise StoreError(f"{self.target.extent}: its rows are not the tokens of {self.own.extent}; {MEND}")

    @property
    def rows(self) -> int:
        return self.own.rows

    def empty(self, rows: int, *, pinned: bool = False) -> Sample:
        """Buffers for `read`."""
        x = torch.empty((rows, self.own.d), dtype=self.own.dtype, pin_memory=pinned)
        if self.target is None:
            return Sample(x, x)
        return Sample(x, torch.empty((rows, self.target.d), dtype=self.target.dtype, pin_memory=pinned))

    def read(self, start: int, stop: int, out: Sample | None = None) -> Sample:
        """Rows `start` to before `stop`; out: `empty(stop - start)`, or as many rows of a larger one."""
        out = out or self.empty(stop - start)
        self.own.activations(start, stop, out.x)
        if self.target is not None:
            self.target.activations(start, stop, out.target)
        return out

    def _agrees(self, name: str) -> bool:
        return self.target is not None and torch.equal(self.own.read(name), self.target.read(name))


def open_pairs(folder: Path, prefix: str = "", target: Path | None = None) -> list[PairedPlace]:
    """The shards of a `batches` folder whose names begin with `prefix`, and their namesakes in `target`.

    Raises:
        StoreError: as `open_shards`, or the two folders have not the same shards.
    """
    found = open_shards(folder, prefix).shards
    if target is None:
        return [PairedPlace(shard, where_of(folder, shard), None) for shard in found]
    others = open_shards(target, prefix).shards
    if _layout(found) != _layout(others):
        raise StoreError(f"{target} has {_told(others)}, {folder} has {_told(found)}: they do not pair; {MEND}")
    pairs = zip(found, others, strict=True)
    return [PairedPlace(shard, where_of(folder, shard), where_of(target, other)) for shard, other in pairs]


def in_order(places: Sequence[PairedPlace], batch: int, limit: int | None = None) -> Iterator[Sample]:
    """Rows once, `[<= batch, d]`, in the order of the store; at most `limit` of them."""
    left = sum(place.shard.rows for place in places) if limit is None else limit
    for place in places:
        if not left:
            break
        file = PairedFile(place)
        rows = min(file.rows, left)
        left -= rows
        for start in range(0, rows, batch):
            yield file.read(start, min(start + batch, rows))


def _layout(shards: Sequence[Shard]) -> list[tuple[str, int]]:
    return [(shard.name, shard.rows) for shard in shards]


def _told(shards: Sequence[Shard]) -> str:
    return f"{sum(shard.rows for shard in shards):,} rows in {len(shards)} shards"
