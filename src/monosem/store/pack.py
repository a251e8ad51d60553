"""Packing a store: few large archives, as one uploads them to a hub dataset, instead of many shards.

Flow: the sizes of the shards decide every offset, so that the index is known before a byte is written; each archive is
written whole, or as a stream to a URL; the manifest goes last and makes the copy complete.
An archive that is there with its full size is kept: an interrupted packing goes on.
"""

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from monosem.errors import StoreError
from monosem.progress import progress
from monosem.run import MANIFEST, Manifest, Shard
from monosem.store.archives import INDEX, Index, Place, store_digest
from monosem.store.shard_file import extent_of
from monosem.store.shards import store_manifest, where_of
from monosem.store.target import Target, open_target

BLOCK = 512  # of tar
CHUNK = 8 << 20
CALIBRATION = "calibration.json"


class Packed(NamedTuple):
    """What was written."""

    target: str
    archives: int
    shards: int
    bytes: int
    kept: int
    """Archives that were there already."""


def pack(folder: Path, target: str, gigabytes: float) -> Packed:
    """Copy a finished store into archives of about `gigabytes` at `target`, a folder or an fsspec URL.

    Raises:
        StoreError: the store is not finished or damaged, or another store is at the target, or it cannot be reached.
    """
    manifest = store_manifest(folder)
    index = plan(manifest, int(gigabytes * 1e9))
    to = open_target(target)
    _begin(to, index)
    kept = 0
    with progress("pack", sum(index.archives.values()), "bytes") as advance:
        for archive, size in index.archives.items():
            if to.size(archive) == size:
                kept += 1
                advance(size)
                continue
            members = [shard for shard in manifest.shards if index.shards[shard.name].archive == archive]
            to.write(archive, partial(_archive, folder, members), advance)
    if (calibration := folder / CALIBRATION).exists():
        to.write_text(CALIBRATION, calibration.read_text(encoding="utf-8"))
    to.write_text(MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return Packed(target, len(index.archives), len(index.shards), sum(index.archives.values()), kept)


def plan(manifest: Manifest, archive_bytes: int) -> Index:
    """Where each shard will lie; an archive is closed once the next shard would take it beyond `archive_bytes`."""
    archives: dict[str, int] = {}
    places: dict[str, Place] = {}
    name, end = "", 0
    for shard in manifest.shards:
        size = BLOCK + shard.bytes + -shard.bytes % BLOCK
        if not name or end + size > archive_bytes:
            name, end = f"shards-{len(archives):05d}.tar", 0
        places[shard.name] = Place(archive=name, offset=end + BLOCK, bytes=shard.bytes)
        end += size
        archives[name] = end + 2 * BLOCK  # two empty blocks end a tar archive
    return Index(store=store_digest(manifest), archives=archives, shards=places)


def _archive(folder: Path, shards: Sequence[Shard]) -> Iterator[bytes]:
    """The bytes of an archive."""
    for shard in shards:
        member = tarfile.TarInfo(shard.name)
        member.size = shard.bytes
        yield member.tobuf(tarfile.GNU_FORMAT)
        yield from contents(folder, shard)
        yield bytes(-shard.bytes % BLOCK)
    yield bytes(2 * BLOCK)


def contents(folder: Path, shard: Shard) -> Iterator[bytes]:
    """The bytes of a shard.

    Raises:
        StoreError: it is missing, or its bytes are not those that the manifest says.
    """
    extent = extent_of(where_of(folder, shard))
    left, digest = shard.bytes, hashlib.sha256()
    try:
        with extent.path.open("rb") as file:
            file.seek(extent.offset)
            while left and (chunk := file.read(min(CHUNK, left))):
                left -= len(chunk)
                digest.update(chunk)
                yield chunk
    except FileNotFoundError:
        raise StoreError(f"{extent}: missing; {extent.mend}") from None
    if left or digest.hexdigest() != shard.sha256:
        raise StoreError(f"{extent}: damaged, its bytes are not those of the manifest; {extent.mend}")


def _begin(to: Target, index: Index) -> None:
    """Write the index; an archive of another store, or of other members, must not pass for one of this."""
    text, found = index.model_dump_json(indent=2) + "\n", to.read_text(INDEX)
    if found is None:
        to.write_text(INDEX, text)
    elif found != text:
        raise StoreError(f"{to.name}: holds another store or archives of another size; choose an empty place")
