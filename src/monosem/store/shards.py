"""One shard of a store: a safetensors file of activations and where each came from; and a stage folder of such shards.

Written by streaming row blocks behind a header, so that a shard need not be copied; read whole, or any run of rows into
a buffer of the caller. Knows nothing of what made the activations.
"""

import json
import math
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monosem.atomic import atomic_path, sha256
from monosem.errors import StoreError
from monosem.run import Shard, read_manifest

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER_BYTES = 1 << 20
READ_BYTES = 1 << 30  # Linux reads at most 2 GiB at once


class Rows(NamedTuple):
    """Activations and where they come from."""

    activations: Tensor
    """`[rows, d]` as stored."""
    sentence: Tensor
    """`[rows]` int64, number of the sentence."""
    position: Tensor
    """`[rows]` int32, place of the token in its sentence, from 0."""
    token: Tensor
    """`[rows]` int32, vocabulary id."""


class Field(NamedTuple):
    """Where a tensor lies in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    """From the beginning of the file, in bytes."""

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class ShardFile:
    """A safetensors file, open for reading runs of rows; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            StoreError: the file is missing, cut short, or not safetensors.
        """
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise StoreError(f"{path}: missing; {_mend(path)}") from None
        weakref.finalize(self, os.close, self._descriptor)
        self.fields = self._read_header()

    @property
    def rows(self) -> int:
        return self.fields["activations"].shape[0]

    @property
    def d(self) -> int:
        return self.fields["activations"].shape[1]

    def read_into(self, name: str, start: int, out: memoryview) -> None:
        """Fill the bytes `out` (`memory` of a tensor) with the rows of tensor `name` from row `start` on.

        Raises:
            StoreError: the file ends before.
        """
        field = self.fields[name]
        offset = field.offset + start * field.row_bytes
        assert offset + len(out) <= field.offset + field.bytes
        while out:
            count = os.preadv(self._descriptor, [out[:READ_BYTES]], offset)
            if count == 0:
                raise StoreError(f"{self.path}: ends too early; {_mend(self.path)}")
            out, offset = out[count:], offset + count

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start` to before `stop` of tensor `name`."""
        field = self.fields[name]
        rows = (field.shape[0] if stop is None else stop) - start
        out = torch.empty((rows, *field.shape[1:]), dtype=field.dtype)
        self.read_into(name, start, memory(out))
        return out

    def map(self, name: str) -> NDArray[Any]:
        """Tensor `name` where it lies on disk, as integers of its size and read-only; read once it is used."""
        field = self.fields[name]
        integers = f"<i{field.dtype.itemsize}"
        if not field.bytes:
            return np.empty(field.shape, dtype=integers)
        return np.memmap(self.path, dtype=integers, mode="r", offset=field.offset, shape=field.shape)

    def _read_header(self) -> dict[str, Field]:
        try:
            size = int.from_bytes(os.pread(self._descriptor, 8, 0), "little")
            if not 0 < size <= MAX_HEADER_BYTES:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(os.pread(self._descriptor, size, 8))
            header.pop("__metadata__", None)
            fields = {
                name: Field(DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0])
                for name, entry in header.items()
            }
            expected = 8 + size + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{self.path}: not a safetensors file ({error}); {_mend(self.path)}") from None
        found = os.fstat(self._descriptor).st_size
        if found != expected:
            raise StoreError(f"{self.path}: {found:,} bytes, expected {expected:,}; {_mend(self.path)}")
        return fields


def read(path: Path) -> Rows:
    """All rows of a shard.

    Raises:
        StoreError: as `ShardFile`, or it is not a shard of activations.
    """
    file = ShardFile(path)
    missing = [name for name in Rows._fields if name not in file.fields]
    if missing:
        raise StoreError(f"{path}: holds no {', '.join(missing)}; expected a shard of activations")
    return Rows(*(file.read(name) for name in Rows._fields))


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors `[rows, ...]` as a safetensors file, atomically.

    Raises:
        OSError: the disk is full; names the folder.
    """
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_blocks(path, shapes, ([tensor] for tensor in tensors.values()))


def write_blocks(
    path: Path, shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], blocks: Iterable[Iterable[Tensor]]
) -> None:
    """Write a safetensors file, atomically, from blocks of rows that are made as they are written.

    Args:
        shapes: dtype and whole shape of each tensor.
        blocks: for each tensor in the same order, its consecutive rows. A block may be reused for the next.

    Raises:
        OSError: the disk is full; names the folder.
    """
    with atomic_path(path) as temporary, temporary.open("wb", buffering=0) as file:
        written = file.write(_header(shapes))
        for tensor_blocks in blocks:
            for block in tensor_blocks:
                data = memory(block.contiguous())
                while data:
                    count = file.write(data[:READ_BYTES])
                    data, written = data[count:], written + count
        assert written == len(_header(shapes)) + sum(_bytes(*shape) for shape in shapes.values())


def _header(shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> bytes:
    """The safetensors header: its size in 8 bytes, then JSON, padded so that the data is aligned."""
    entries: dict[str, object] = {}
    offset = 0
    for name, (dtype, shape) in shapes.items():
        end = offset + _bytes(dtype, shape)
        entries[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def memory(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, not copied."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def _bytes(dtype: torch.dtype, shape: Sequence[int]) -> int:
    return math.prod(shape) * dtype.itemsize


class Shards(NamedTuple):
    """Shards of a finished stage folder that are whole."""

    folder: Path
    shards: list[Shard]

    @property
    def paths(self) -> list[Path]:
        return [self.folder / shard.name for shard in self.shards]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)


def open_shards(folder: Path, prefix: str = "") -> Shards:
    """The shards of a stage folder whose names begin with `prefix`; their checksums are compared over all cores.

    Raises:
        StoreError: the stage is not complete, or a shard is missing or damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None or not manifest.complete:
        raise StoreError(f"{folder}: no finished store; make it with: monosem run RECIPE")
    chosen = [shard for shard in manifest.shards if shard.name.startswith(prefix)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda shard: verify(folder / shard.name, shard), chosen))
    return Shards(folder, chosen)


def verify(path: Path, shard: Shard) -> None:
    """Compare a file with what the manifest says of it.

    Raises:
        StoreError: it is missing, of another size, or its checksum differs.
    """
    if not path.exists():
        raise StoreError(f"{path}: missing; {_mend(path)}")
    if (found := path.stat().st_size) != shard.bytes:
        raise StoreError(f"{path}: {found:,} bytes, expected {shard.bytes:,}; {_mend(path)}")
    if _sha256_once(path, path.stat().st_mtime_ns) != shard.sha256:
        raise StoreError(f"{path}: damaged, its sha256 is not the manifest's; {_mend(path)}")


@lru_cache(maxsize=65_536)
def _sha256_once(path: Path, changed: int) -> str:
    """The digest of a file that was changed last at time `changed`: one process reads it once."""
    del changed
    return sha256(path)


def _mend(path: Path) -> str:
    """The command that makes a shard again, from its folder `activations/HOOK` or `batches/HOOK`."""
    verb = "prepare" if path.parent.parent.name == "batches" else "capture"
    return f"make it again with --redo {verb}"
