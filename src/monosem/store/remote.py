"""A finished store that lies elsewhere: shards are fetched one by one into a cache as they are read.

Flow: `adopt` makes a stage of a store at a path or URL, which holds the manifests only; `CachedShard.fetch` copies a
shard, plain or out of an archive, into the cache once, compares its checksum, and lets go of those that were not read
for longest. Knows nothing of who reads.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from monosem.assets.cache import cache_folder
from monosem.atomic import atomic_path, write_text
from monosem.errors import RecipeError, StoreError
from monosem.run import MANIFEST, Manifest, Shard, Stage
from monosem.store.archives import INDEX, Index, parse_index
from monosem.store.far import Far, is_url
from monosem.store.shard_file import Extent

REMOTE = "remote.json"
CACHE_VARIABLE, CACHE_GB = "MONOSEM_STORE_CACHE_GB", 50.0
CHUNK = 16 << 20  # read at once, and read again after a failure
TORN_SECONDS = 86_400  # after this, an unfinished file of the cache belongs to nobody


class Remote(BaseModel):
    """What `remote.json` holds: where a stage's shards are."""

    schema_version: int = 1
    source: str


class CachedShard:
    """A shard behind a URL."""

    def __init__(self, far: Far, shard: Shard, index: Index | None) -> None:
        self._far, self._shard = far, shard
        place = None if index is None else index.shards[shard.name]
        self._file, self._start = (shard.name, 0) if place is None else (place.archive, place.offset)
        self._path = shard_cache() / f"{shard.sha256}.safetensors"

    def __str__(self) -> str:
        return f"{self._far.url}/{self._shard.name}"

    def fetch(self) -> Extent:
        """The shard in the cache.

        Raises:
            StoreError: it is missing or damaged, or cannot be reached.
        """
        with _locks[self._shard.sha256]:
            try:
                os.utime(self._path)
            except FileNotFoundError:
                self._download()
        return Extent(self._path, cure=f"delete it, it is fetched again from {self._far.url}")

    def prefetch(self) -> None:
        """Begin to fetch the shard; a failure is left to `fetch`, which will meet it again."""

        def work() -> None:
            with contextlib.suppress(StoreError, OSError):
                self.fetch()

        threading.Thread(target=work, daemon=True).start()

    def parts(self) -> Iterator[bytes]:
        """The bytes of the shard as they come.

        Raises:
            StoreError: as `fetch`.
        """
        digest, path, end = hashlib.sha256(), self._far.path(self._file), self._start + self._shard.bytes
        for start in range(self._start, end, CHUNK):
            stop = min(start + CHUNK, end)
            try:
                part = self._far.tried(self._file, lambda a=start, b=stop: self._far.system.cat_file(path, a, b))
            except FileNotFoundError:
                raise StoreError(f"{self}: {self._file} is missing; upload it again") from None
            if len(part) != stop - start:
                raise StoreError(f"{self}: {self._file} ends too early; upload it again")
            digest.update(part)
            yield part
        if digest.hexdigest() != self._shard.sha256:
            raise StoreError(f"{self}: damaged, its sha256 is not the manifest's; upload it again")

    def _download(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with (
            _room(self._path.parent, self._shard.bytes),
            atomic_path(self._path) as temporary,
            temporary.open("wb") as file,
        ):
            for part in self.parts():
                file.write(part)


def adopt(stage: Stage, source: str) -> Stage:
    """Make `stage` of the same stage that was made elsewhere; its shards stay there.

    Args:
        source: path or fsspec URL of its folder.

    Raises:
        StoreError: there is no finished store, or it was made with another recipe, model or text; names the key.
    """
    manifest, index = _read(source)
    _check_same(source, stage.manifest, manifest)
    stage.begin()
    _describe(stage.path, source, index)
    stage.shards = list(manifest.shards)
    stage.finish(**manifest.counts)
    return stage


def mirror(url: str) -> Path:
    """A folder of the cache that stands for the store at a URL: its manifests, as they are now.

    Raises:
        StoreError: there is no finished store, or it cannot be reached.
    """
    manifest, index = _read(url)
    folder = cache_folder() / "stores" / hashlib.sha256(url.encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    _describe(folder, url, index)
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return folder


def shard_cache() -> Path:
    """Where fetched shards lie."""
    return cache_folder() / "shards"


def cache_bytes() -> int:
    """Most bytes of it: `MONOSEM_STORE_CACHE_GB`, in 10^9 bytes.

    Raises:
        RecipeError: that is no number.
    """
    text = os.environ.get(CACHE_VARIABLE, str(CACHE_GB))
    try:
        return int(float(text) * 1e9)
    except ValueError:
        raise RecipeError(f"{CACHE_VARIABLE} = {text!r}: expected a number, in 10^9 bytes") from None


def _read(source: str) -> tuple[Manifest, Index | None]:
    """The manifest of a finished store elsewhere, and the index of its archives."""
    if is_url(source):
        far = Far(source)
        found, packed = far.read_text(MANIFEST), far.read_text(INDEX)
    else:
        files = (Path(source) / MANIFEST, Path(source) / INDEX)
        found, packed = (file.read_text(encoding="utf-8") if file.exists() else None for file in files)
    if found is None:
        raise StoreError(f"{source}: no finished store, it has no {MANIFEST}")
    try:
        manifest = Manifest.model_validate_json(found)
    except ValidationError:
        raise StoreError(f"{source}/{MANIFEST}: damaged; upload it again") from None
    if not manifest.complete:
        raise StoreError(f"{source}: no finished store, it was interrupted; finish it where it is made")
    return manifest, None if packed is None else parse_index(packed, f"{source}/{INDEX}", manifest)


def _describe(folder: Path, source: str, index: Index | None) -> None:
    """Write where the shards are; an index of archives is of use where they cannot be asked for each time."""
    here = source if is_url(source) else str(Path(source).resolve())
    if index is not None and is_url(source):
        write_text(folder / INDEX, index.model_dump_json(indent=2) + "\n")
    else:
        (folder / INDEX).unlink(missing_ok=True)
    write_text(folder / REMOTE, Remote(source=here).model_dump_json(indent=2) + "\n")


def _check_same(source: str, expected: Manifest, found: Manifest) -> None:
    """Name the first key in which a store is not the one that this run would make."""
    if found.fingerprint == expected.fingerprint:
        return
    for name in ("stage", "recipe", "inputs"):
        one, other = getattr(expected, name), getattr(found, name)
        pairs = (
            [(name, one, other)]
            if isinstance(one, str)
            else [(f"{name}.{key}", one.get(key), other.get(key)) for key in sorted({*one, *other})]
        )
        for key, here, there in pairs:
            if here != there:
                raise StoreError(
                    f"{source}: another store than this recipe's ({key}: {there!r} there, {here!r} here); "
                    "use the recipe that it was made with"
                )
    raise StoreError(f"{source}: a store of another version of the format; make it again")


@contextlib.contextmanager
def _room(folder: Path, needed: int) -> Iterator[None]:
    """Keep `needed` bytes of the cache's size for a shard that is being fetched."""
    global _reserved
    with _room_lock:
        _evict(folder, cache_bytes() - _reserved - needed)
        _reserved += needed
    try:
        yield
    finally:
        with _room_lock:
            _reserved -= needed


def _evict(folder: Path, most: int) -> None:
    """Delete the shards that were not read for longest until `most` bytes are left."""
    now, kept = time.time(), []
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process deletes too
            status = file.stat()
            if not file.name.endswith(".tmp") or now - status.st_mtime > TORN_SECONDS:
                kept.append((status.st_mtime, status.st_size, file))
    used = sum(size for _, size, _ in kept)
    for _, size, file in sorted(kept):
        if used <= most:
            return
        # who has it open reads on: the file goes when it is closed
        file.unlink(missing_ok=True)
        used -= size


_room_lock, _reserved = threading.Lock(), 0
_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
