"""The header of a GGUF file: its metadata, and where each tensor lies.

Read here and not with the `gguf` package's reader, which takes seconds over a vocabulary of 49,152 strings; what the
quantisation types mean is that package's. Format: the GGUF specification, versions 2 and 3, little-endian.
"""

import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from monosem.errors import ModelError


class StoredTensor(NamedTuple):
    """A tensor as it lies in the file."""

    shape: tuple[int, ...]
    """Rows first, as PyTorch has it; GGUF itself writes the fastest dimension first."""
    kind: GGMLQuantizationType
    data: np.ndarray
    """Its bytes, `[..., bytes of a row]` uint8, mapped and not read yet."""

    def dequantise(self) -> np.ndarray:
        """Return the values, fp32, in `shape`."""
        return np.array(dequantize(self.data, self.kind), dtype=np.float32).reshape(self.shape)


class Header(NamedTuple):
    """What a GGUF file holds."""

    fields: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_header(path: Path) -> Header:
    """Map the file and read its header.

    Raises:
        ModelError: it is not GGUF, of another version, or cut short.
    """
    with path.open("rb") as file:
        try:
            cursor = _Cursor(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            return _header(path, cursor)
        except (struct.error, ValueError, KeyError) as error:
            raise ModelError(f"{path}: not a whole GGUF file ({error}); download it again") from None


class _Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> str:
        length = self.scalar("Q")
        self.at += length
        if self.at > len(self.data):
            raise ValueError(f"a text ends beyond its {len(self.data)} bytes")
        return self.data[self.at - length : self.at].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            inner, length = self.scalar("I"), self.scalar("Q")
            read: Callable[[], Any] = self.text if inner == _TEXT else lambda: self.value(inner)
            return [read() for _ in range(length)]
        return self.scalar(_SCALARS[kind])


_TEXT, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def _header(path: Path, cursor: _Cursor) -> Header:
    magic, version = cursor.data[:4], cursor.data[4:8]
    if magic != b"GGUF" or version not in (b"\2\0\0\0", b"\3\0\0\0"):
        raise ModelError(f"{path}: not a GGUF file of version 2 or 3")
    cursor.at = 8
    n_tensors, n_fields = cursor.scalar("Q"), cursor.scalar("Q")
    fields = {cursor.text(): cursor.value(cursor.scalar("I")) for _ in range(n_fields)}
    places = [_place(cursor) for _ in range(n_tensors)]
    alignment = fields.get("general.alignment", 32)
    begin = -(-cursor.at // alignment) * alignment
    return Header(fields, {place.name: _tensor(path, cursor.data, begin, place) for place in places})


class _Place(NamedTuple):
    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int


def _place(cursor: _Cursor) -> _Place:
    name = cursor.text()
    shape = [cursor.scalar("Q") for _ in range(cursor.scalar("I"))]
    return _Place(name, tuple(reversed(shape)), GGMLQuantizationType(cursor.scalar("I")), cursor.scalar("Q"))


def _tensor(path: Path, data: mmap.mmap, begin: int, place: _Place) -> StoredTensor:
    block, size = GGML_QUANT_SIZES[place.kind]
    stored = (*place.shape[:-1], place.shape[-1] // block * size)
    length = int(np.prod(stored, dtype=np.int64))
    if begin + place.offset + length > len(data):
        raise ModelError(f"{path}: cut short within tensor {place.name}; download it again")
    flat = np.frombuffer(data, dtype=np.uint8, count=length, offset=begin + place.offset)
    return StoredTensor(place.shape, place.kind, flat.reshape(stored))
