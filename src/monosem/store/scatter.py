"""The two passes of a shuffle on disk: rows of one file sorted into random buckets, and a bucket gathered and shuffled.

Pass 1 reads its source where it lies in the page cache and writes through a buffer of a few thousand rows; pass 2 holds
one bucket in memory. So memory is bounded, whatever the size of the store. Knows nothing of stages.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monosem.store.shards import Rows, ShardFile, memory, write_blocks
from monosem.store.stats import Statistics, merge

BLOCK_ROWS = 8192  # moved at once


def scatter(source: ShardFile, bucket: NDArray[np.int64], train: int, buckets: int, path: Path) -> None:
    """Write the rows of `source` in the order of their buckets, with where each begins, and statistics.

    Args:
        bucket: `[rows]`, the bucket of each row.
        train: the statistics are of the rows in the buckets before this one.
        buckets: how many there are.
    """
    order = np.argsort(bucket, kind="stable")
    offsets = torch.from_numpy(np.searchsorted(bucket[order], np.arange(buckets + 1)))
    statistics = Statistics.empty(source.d)

    def observed(blocks: Iterator[Tensor], left: int) -> Iterator[Tensor]:
        nonlocal statistics
        for block in blocks:
            statistics = merge([statistics, Statistics.of(block[: max(0, left)])])
            left -= len(block)
            yield block

    def blocks() -> Iterator[Iterator[Tensor]]:
        for name in Rows._fields:
            picked = _picked(source.map(name), source.fields[name].dtype, order)
            yield observed(picked, int(offsets[train])) if name == "activations" else picked
        # known only now that the activations have gone by
        yield from (iter([tensor]) for tensor in (offsets, *statistics.tensors().values()))

    small = {"offsets": offsets, **statistics.tensors()}
    shapes = {name: (source.fields[name].dtype, source.fields[name].shape) for name in Rows._fields}
    write_blocks(path, shapes | {name: (t.dtype, tuple(t.shape)) for name, t in small.items()}, blocks())


def gather(scattered: Sequence[Path], bucket: int, random: np.random.Generator, path: Path) -> int:
    """Write the rows of one bucket out of all scattered files, in random order; returns how many they are."""
    bounds = [_bounds(ShardFile(file), bucket) for file in scattered]
    rows = sum(stop - start for start, stop in bounds)
    order = random.permutation(rows)
    first = ShardFile(scattered[0])
    shapes = {name: (first.fields[name].dtype, (rows, *first.fields[name].shape[1:])) for name in Rows._fields}

    def blocks() -> Iterator[Iterator[Tensor]]:
        for name, (dtype, shape) in shapes.items():
            whole = torch.empty(shape, dtype=dtype)
            done = 0
            for file, (start, stop) in zip(scattered, bounds, strict=True):
                ShardFile(file).read_into(name, start, memory(whole[done : done + stop - start]))
                done += stop - start
            yield _picked(_integers(whole), dtype, order)

    write_blocks(path, shapes, blocks())
    return rows


def row_counts(scattered: Sequence[Path]) -> NDArray[np.int64]:
    """`[buckets]`, the rows of each bucket over all scattered files."""
    return np.sum([np.diff(ShardFile(file).read("offsets").numpy()) for file in scattered], axis=0)


def _bounds(file: ShardFile, bucket: int) -> tuple[int, int]:
    start, stop = file.read("offsets", bucket, bucket + 2).tolist()
    return start, stop


def _picked(array: NDArray[Any], dtype: torch.dtype, order: NDArray[np.int64]) -> Iterator[Tensor]:
    """Rows of `array` in the order given, block by block, in a buffer that the next block overwrites."""
    buffer = np.empty((min(BLOCK_ROWS, len(order)), *array.shape[1:]), dtype=array.dtype)
    for start in range(0, len(order), BLOCK_ROWS):
        rows = order[start : start + BLOCK_ROWS]
        out = buffer[: len(rows)]
        np.take(array, rows, axis=0, out=out, mode="clip")  # clip: write to `out` without a copy between
        yield torch.from_numpy(out).view(dtype)


def _integers(tensor: Tensor) -> NDArray[Any]:
    """The same memory for numpy, which has no bfloat16."""
    sizes = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(sizes[tensor.dtype.itemsize]).numpy()
