"""A safetensors file of activations that is read by runs of rows, and written as a stream of row blocks.

The file may be one of its own, a part of an archive, or far away until it is opened. int8 activations become floats
here and nowhere else: `ShardFile.activations`. Knows nothing of what made the activations.
"""

import json
import math
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monosem.atomic import atomic_path
from monosem.errors import StoreError
from monosem.store.encoding import CENTRE, SCALE_DTYPE, SCALES, Stored, decode_int8, scales_of

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER_BYTES = 1 << 20
READ_BYTES = 1 << 30  # Linux reads at most 2 GiB at once
FETCHES = 3
DECODED_ROWS = 512  # decoded at once


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


class Extent(NamedTuple):
    """Where the bytes of a shard lie: a file of its own, or a part of an archive."""

    path: Path
    offset: int = 0
    bytes: int | None = None
    """None: to the end of the file."""
    name: str = ""
    """Of the shard in its archive."""
    cure: str = ""
    """What mends it, where that is not the stage."""

    def __str__(self) -> str:
        return f"{self.path}: {self.name}" if self.name else str(self.path)

    @property
    def mend(self) -> str:
        """What makes the shard again, from its folder `activations/HOOK` or `batches/HOOK`."""
        if self.cure:
            return self.cure
        if self.name:
            return "copy the archive again, or pack the store again"
        verb = "prepare" if self.path.parent.parent.name == "batches" else "capture"
        return f"make it again with --redo {verb}"


class FarShard(Protocol):
    """A shard that has to be fetched before it can be opened."""

    def fetch(self) -> Extent:
        """The shard on this machine."""
        ...

    def prefetch(self) -> None:
        """Begin to fetch it, without waiting."""
        ...

    def parts(self) -> Iterator[bytes]:
        """Its bytes, compared with its checksum at the end."""
        ...


Where = Path | Extent | FarShard


def extent_of(where: Where) -> Extent:
    """Where a shard lies on this machine; one that is far away is fetched."""
    if isinstance(where, Path):
        return Extent(where)
    return where if isinstance(where, Extent) else where.fetch()


class ShardFile:
    """A safetensors file, open for reading runs of rows; safe to use from several threads."""

    def __init__(self, where: Where) -> None:
        """Read the header.

        Raises:
            StoreError: the file is missing, cut short, not safetensors, or int8 without its scales or centre.
        """
        for _ in range(FETCHES):
            self.extent = extent_of(where)
            self.path = self.extent.path
            try:
                self._descriptor = os.open(self.path, os.O_RDONLY)
                break
            except FileNotFoundError:
                # a shard of the cache may go between being fetched and being opened
                if isinstance(where, Path | Extent):
                    raise StoreError(f"{self.extent}: missing; {self.extent.mend}") from None
        else:
            raise StoreError(f"{self.path}: deleted as soon as it was fetched; give the cache more room")
        weakref.finalize(self, os.close, self._descriptor)
        self.fields = self._read_header()
        self._centre = self._read_centre()

    @property
    def rows(self) -> int:
        return self.fields["activations"].shape[0]

    @property
    def d(self) -> int:
        return self.fields["activations"].shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """What `activations` gives."""
        return torch.float32 if self.encoded else self.fields["activations"].dtype

    @property
    def encoded(self) -> bool:
        """Whether the activations are int8."""
        return self._centre is not None

    def activations(self, start: int = 0, stop: int | None = None, out: Tensor | None = None) -> Tensor:
        """Rows `start` to before `stop`: floats as stored, int8 decoded to float32.

        Args:
            out: `[stop - start, d]` of `self.dtype`, contiguous, to be filled.
        """
        stop = self.rows if stop is None else stop
        out = torch.empty((stop - start, self.d), dtype=self.dtype) if out is None else out
        if self._centre is None:
            self.read_into("activations", start, memory(out))
            return out
        for begin in range(start, stop, DECODED_ROWS):
            end = min(begin + DECODED_ROWS, stop)
            stored = Stored(self.read("activations", begin, end), self.read(SCALES, begin, end))
            decode_int8(stored, self._centre, out[begin - start : end - start])
        return out

    def read_into(self, name: str, start: int, out: memoryview) -> None:
        """Fill the bytes `out` (`memory` of a tensor) with the rows of tensor `name` as stored, from row `start` on.

        Raises:
            StoreError: the file ends before.
        """
        field = self.fields[name]
        offset = field.offset + start * field.row_bytes
        assert offset + len(out) <= field.offset + field.bytes
        while out:
            count = os.preadv(self._descriptor, [out[:READ_BYTES]], self.extent.offset + offset)
            if count == 0:
                raise StoreError(f"{self.extent}: ends too early; {self.extent.mend}")
            out, offset = out[count:], offset + count

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start` to before `stop` of tensor `name` as stored."""
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
        offset = self.extent.offset + field.offset
        # by its descriptor: a file of the cache may have no name any more
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            return np.memmap(file, dtype=integers, mode="r", offset=offset, shape=field.shape)

    def _read_header(self) -> dict[str, Field]:
        found = os.fstat(self._descriptor).st_size - self.extent.offset
        if self.extent.bytes is not None:
            if found < self.extent.bytes:
                raise StoreError(f"{self.extent}: the archive ends too early; {self.extent.mend}")
            found = self.extent.bytes
        try:
            size = int.from_bytes(os.pread(self._descriptor, 8, self.extent.offset), "little")
            if not 0 < size <= MAX_HEADER_BYTES:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(os.pread(self._descriptor, size, self.extent.offset + 8))
            header.pop("__metadata__", None)
            fields = {
                name: Field(DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0])
                for name, entry in header.items()
            }
            expected = 8 + size + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{self.extent}: not a safetensors file ({error}); {self.extent.mend}") from None
        if found != expected:
            raise StoreError(f"{self.extent}: {found:,} bytes, expected {expected:,}; {self.extent.mend}")
        return fields

    def _read_centre(self) -> Tensor | None:
        """`[d]` float32 of int8 activations."""
        activations = self.fields.get("activations")
        if activations is None or activations.dtype != torch.int8:
            return None
        rows, d = activations.shape
        expected = {CENTRE: (torch.float32, (d,)), SCALES: (SCALE_DTYPE, (rows, scales_of(torch.int8, d)))}
        for name, (dtype, shape) in expected.items():
            if (field := self.fields.get(name)) is None or (field.dtype, field.shape) != (dtype, shape):
                raise StoreError(f"{self.extent}: int8 activations without their {name}; {self.extent.mend}")
        return self.read(CENTRE)


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
