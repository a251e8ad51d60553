"""A packed store: its shards inside uncompressed tar archives, with an index that says where each one begins.

Any tar program opens the archives; we never do, since the index gives every shard's bytes. `archives.json` lies beside
`manifest.json`, which stays as it was. Knows nothing of how archives are made.
"""

from pathlib import Path

from pydantic import BaseModel, ValidationError

from monosem.errors import StoreError
from monosem.run import MANIFEST, Manifest, fingerprint
from monosem.store.shard_file import Extent

INDEX = "archives.json"


class Place(BaseModel):
    """Where a shard's bytes are."""

    archive: str
    offset: int
    bytes: int


class Index(BaseModel):
    """What `archives.json` holds."""

    schema_version: int = 1
    store: str
    """`store_digest` of what is packed."""
    archives: dict[str, int]
    """Bytes of each archive."""
    shards: dict[str, Place]

    def extent(self, folder: Path, shard: str) -> Extent:
        """Where a shard lies on this machine."""
        place = self.shards[shard]
        return Extent(folder / place.archive, place.offset, place.bytes, shard)


def parse_index(text: str, where: str, manifest: Manifest) -> Index:
    """Read an index and compare it with the manifest; `where` names it in errors.

    Raises:
        StoreError: it is damaged or belongs to another store.
    """
    try:
        index = Index.model_validate_json(text)
    except ValidationError:
        raise StoreError(f"{where}: damaged; copy it again, or pack the store again") from None
    sizes = {name: place.bytes for name, place in index.shards.items()}
    if index.store != store_digest(manifest) or sizes != {shard.name: shard.bytes for shard in manifest.shards}:
        raise StoreError(
            f"{where}: does not belong to the {MANIFEST} beside it; copy both from one place, or pack the store again"
        )
    for name, place in index.shards.items():
        if place.offset + place.bytes > index.archives.get(place.archive, 0):
            raise StoreError(f"{where}: {name} lies beyond the end of its archive; pack the store again")
    return index


def store_digest(manifest: Manifest) -> str:
    """Names the content of a store: the names and checksums of its shards."""
    return fingerprint([[shard.name, shard.sha256] for shard in manifest.shards])
