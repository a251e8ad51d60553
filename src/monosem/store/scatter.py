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

from monosem.errors import StoreError
from monosem.store.encoding import CENTRE, SCALES, Format, Stored
from monosem.store.shards import ShardFile, memory, row_fields, write_blocks
from monosem.store.stats import Statistics, merge

BLOCK_ROWS = 8192  # moved at once


def scatter(source: ShardFile, bucket: NDArray[np.int64], train: int, buckets: int, path: Path) -> None:
    """Write the rows of `source` as they are stored, in the order of their buckets, with where each begins.

    Statistics of the decoded rows are written beside them.

    Args:
        bucket: `[rows]`, the bucket of each row.
        train: the statistics are of the rows in the buckets before this one.
        buckets: how many there are.
    """
    order = np.argsort(bucket, kind="stable")
    offsets = torch.from_numpy(np.searchsorted(bucket[order], np.arange(buckets + 1)))
    names = row_fields(source)
    statistics = Statistics.empty(source.d)

    def observed(left: int) -> Iterator[Tensor]:
        nonlocal statistics
        for activations, decoded in _decoded(source, order):
            statistics = merge([statistics, Statistics.of(decoded[: max(0, left)])])
            left -= len(decoded)
            yield activations

    def blocks() -> Iterator[Iterator[Tensor]]:
        for name in names:
            if name == "activations":
                yield observed(int(offsets[train]))
            else:
                yield _picked(source.map(name), source.fields[name].dtype, order)
        # known only now that the activations have gone by
        yield from (iter([tensor]) for tensor in (*whole.values(), *statistics.tensors().values()))

    whole = {"offsets": offsets, **_centre(source)}
    shapes = {name: (source.fields[name].dtype, source.fields[name].shape) for name in names}
    small = {**whole, **statistics.tensors()}
    write_blocks(path, shapes | {name: (t.dtype, tuple(t.shape)) for name, t in small.items()}, blocks())


def gather(scattered: Sequence[Path], bucket: int, rows: int, random: np.random.Generator, path: Path) -> None:
    """Write the rows of one bucket out of all scattered files, in random order.

    Args:
        rows: how many they are, of `row_counts`.

    Raises:
        StoreError: the files hold activations of different formats.
    """
    order = random.permutation(rows)
    first = ShardFile(scattered[0])
    shapes = {name: (first.fields[name].dtype, (rows, *first.fields[name].shape[1:])) for name in row_fields(first)}
    # wide numbers first, so that each tensor is aligned
    shapes = dict(sorted(shapes.items(), key=lambda item: -item[1][0].itemsize))

    whole = {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in shapes.items()}
    done = 0
    for file in map(ShardFile, scattered):  # each is opened once for a bucket: a large store has thousands
        _check_same_format(first, file)
        start, stop = file.read("offsets", bucket, bucket + 2).tolist()
        for name, tensor in whole.items():
            file.read_into(name, start, memory(tensor[done : done + stop - start]))
        done += stop - start
    assert done == rows

    def blocks() -> Iterator[Iterator[Tensor]]:
        yield from (iter([tensor]) for tensor in _centre(first).values())
        for name, (dtype, _) in shapes.items():
            yield _picked(_integers(whole.pop(name)), dtype, order)

    centre = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in _centre(first).items()}
    write_blocks(path, centre | shapes, blocks())


def row_counts(scattered: Sequence[Path]) -> NDArray[np.int64]:
    """`[buckets]`, the rows of each bucket over all scattered files."""
    return np.sum([np.diff(ShardFile(file).read("offsets").numpy()) for file in scattered], axis=0)


def _decoded(source: ShardFile, order: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
    """Activations in the order given, block by block, as they are stored and as they are read."""
    picked = _picked(source.map("activations"), source.fields["activations"].dtype, order)
    if not source.encoded:
        yield from ((block, block) for block in picked)
        return
    form = Format(torch.int8, source.read(CENTRE))
    for activations, scales in zip(picked, _picked(source.map(SCALES), torch.bfloat16, order), strict=True):
        yield activations, form.decode(Stored(activations, scales))


def _centre(file: ShardFile) -> dict[str, Tensor]:
    return {CENTRE: file.read(CENTRE)} if file.encoded else {}


def _check_same_format(first: ShardFile, other: ShardFile) -> None:
    """Rows of different formats cannot share a shard."""
    dtypes = [file.fields["activations"].dtype for file in (first, other)]
    if dtypes[0] != dtypes[1] or (first.encoded and not torch.equal(first.read(CENTRE), other.read(CENTRE))):
        raise StoreError(
            f"{other.path}: activations of another format or int8 centre than {first.path.name}; "
            "the shards of a store are captured together"
        )


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
    sizes = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(sizes[tensor.dtype.itemsize]).numpy()
