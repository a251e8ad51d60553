"""The shards of a store: activations and where each came from, and a stage folder of such shards.

A folder's shards lie in files of their own, in archives (`archives`) or far away (`remote`); who reads them sees no
difference. Knows nothing of what made the activations.
"""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.errors import StoreError
from monosem.run import Manifest, Shard, read_manifest
from monosem.store.archives import INDEX, Index, parse_index
from monosem.store.encoding import CENTRE, SCALES, Format, Stored
from monosem.store.far import Far, is_url
from monosem.store.remote import REMOTE, CachedShard, Remote
from monosem.store.shard_file import Extent, ShardFile, Where, extent_of, memory, write, write_blocks

__all__ = [
    "CONSUMED",
    "Rows",
    "ShardFile",
    "Shards",
    "consumed",
    "file_in",
    "index_of",
    "is_far",
    "memory",
    "open_shards",
    "read",
    "row_fields",
    "shard_tensors",
    "store_manifest",
    "verify",
    "verify_here",
    "where_of",
    "write",
    "write_blocks",
]

CONSUMED = "consumed"  # the count of a manifest that says which folder the shards went into
HASHED_BYTES = 1 << 20  # at once


class Rows(NamedTuple):
    """Activations and where they come from."""

    activations: Tensor
    """`[rows, d]`: floats as stored, int8 decoded to float32."""
    sentence: Tensor
    """`[rows]` int64, number of the sentence."""
    position: Tensor
    """`[rows]` int32, place of the token in its sentence, from 0."""
    token: Tensor
    """`[rows]` int32, vocabulary id."""


def read(where: Where) -> Rows:
    """All rows of a shard.

    Raises:
        StoreError: as `ShardFile`, or it is not a shard of activations.
    """
    file = ShardFile(where)
    missing = [name for name in Rows._fields if name not in file.fields]
    if missing:
        raise StoreError(f"{file.extent}: holds no {', '.join(missing)}; expected a shard of activations")
    return Rows(file.activations(), *(file.read(name) for name in Rows._fields[1:]))


def row_fields(file: ShardFile) -> list[str]:
    """The tensors of a shard that have a row for each activation."""
    return [*Rows._fields, SCALES] if file.encoded else list(Rows._fields)


def shard_tensors(stored: Stored, origin: Mapping[str, Tensor], form: Format) -> dict[str, Tensor]:
    """What a shard holds, as `write` takes it; origin: the other fields of `Rows`."""
    tensors = {"activations": stored.activations, **{name: origin[name] for name in Rows._fields[1:]}}
    if form.dtype == torch.int8:
        tensors |= {SCALES: stored.scales, CENTRE: form.centre}
    # wide numbers first, so that each tensor is aligned, whatever the number of rows
    return dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize))


class Shards(NamedTuple):
    """Shards of a finished stage folder that are whole."""

    folder: Path
    shards: list[Shard]

    @property
    def paths(self) -> list[Where]:
        """Where each shard lies, for `read` and `ShardFile`."""
        return [where_of(self.folder, shard) for shard in self.shards]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)


def store_manifest(folder: Path) -> Manifest:
    """The manifest of a finished store.

    Raises:
        StoreError: there is none, the stage was interrupted, or its shards were deleted since.
    """
    manifest = read_manifest(folder)
    if manifest is None or not manifest.complete:
        raise StoreError(f"{folder}: no finished store; make it with: monosem run RECIPE")
    if CONSUMED in manifest.counts:
        raise consumed(folder, manifest)
    return manifest


def consumed(folder: Path, manifest: Manifest) -> StoreError:
    """What to say of activations that `prepare.consume` deleted."""
    return StoreError(
        f"{folder}: prepare.consume deleted these activations when it made {manifest.counts[CONSUMED]}; "
        "make them again with --redo capture and prepare.consume = false"
    )


def where_of(folder: Path, shard: Shard) -> Where:
    """Where a shard of a finished store lies: in a file of its own, in an archive, or elsewhere.

    Raises:
        StoreError: the index of the archives is damaged.
    """
    file, remote = folder / shard.name, folder / REMOTE
    if file.exists():
        return file
    found = index_of(folder)
    if remote.exists():
        source = Remote.model_validate_json(remote.read_text(encoding="utf-8")).source
        return CachedShard(Far(source), shard, found) if is_url(source) else where_of(Path(source), shard)
    return file if found is None else found.extent(folder, shard.name)


def index_of(folder: Path) -> Index | None:
    """The index of a packed store; None: it is not packed.

    Raises:
        StoreError: the index is damaged or of another store.
    """
    file = folder / INDEX
    return _index_once(file, file.stat().st_mtime_ns) if file.exists() else None


def is_far(where: Where) -> bool:
    """Whether a shard must be fetched to be read."""
    return not isinstance(where, Path | Extent)


def file_in(folder: Path, name: str) -> Where:
    """As `where_of`, of the store's shard called `name`; a store that is being made has files of its own."""
    manifest = read_manifest(folder)
    shards = manifest.shards if manifest is not None and manifest.complete else []
    return next((where_of(folder, shard) for shard in shards if shard.name == name), folder / name)


def open_shards(folder: Path, prefix: str = "") -> Shards:
    """The shards of a stage folder whose names begin with `prefix`; their checksums are compared over all cores.

    That of a shard which lies elsewhere is compared when it is fetched.

    Raises:
        StoreError: the stage is not complete, or a shard is missing or damaged.
    """
    chosen = [shard for shard in store_manifest(folder).shards if shard.name.startswith(prefix)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda shard: verify_here(where_of(folder, shard), shard), chosen))
    return Shards(folder, chosen)


def verify_here(where: Where, shard: Shard) -> None:
    """As `verify`, if the shard is on this machine."""
    if not is_far(where):
        verify(where, shard)


def verify(where: Where, shard: Shard) -> None:
    """Compare a shard with what the manifest says of it.

    Raises:
        StoreError: it is missing, of another size, or its checksum differs.
    """
    if not isinstance(where, Path | Extent):
        for _ in where.parts():
            pass
        return
    extent = extent_of(where)
    if not extent.path.exists():
        raise StoreError(f"{extent}: missing; {extent.mend}")
    status = extent.path.stat()
    if extent.bytes is None and status.st_size != shard.bytes:
        raise StoreError(f"{extent}: {status.st_size:,} bytes, expected {shard.bytes:,}; {extent.mend}")
    if status.st_size < extent.offset + shard.bytes:
        raise StoreError(f"{extent}: the archive ends too early; {extent.mend}")
    if _sha256_once(extent, shard.bytes, status.st_mtime_ns) != shard.sha256:
        raise StoreError(f"{extent}: damaged, its sha256 is not the manifest's; {extent.mend}")


@lru_cache(maxsize=65_536)
def _sha256_once(extent: Extent, size: int, changed: int) -> str:
    """The digest of a shard whose file was changed last at time `changed`: one process reads it once."""
    del changed
    digest, buffer = hashlib.sha256(), bytearray(HASHED_BYTES)
    with extent.path.open("rb", buffering=0) as file:
        file.seek(extent.offset)
        while size and (count := file.readinto(memoryview(buffer)[: min(size, HASHED_BYTES)])):
            digest.update(memoryview(buffer)[:count])
            size -= count
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _index_once(file: Path, changed: int) -> Index:
    """The index of archives in a file that was changed last at time `changed`."""
    del changed
    return parse_index(file.read_text(encoding="utf-8"), str(file), store_manifest(file.parent))
