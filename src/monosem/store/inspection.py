"""What a finished store holds, and whether it is whole: one folder `activations/HOOK` or `batches/HOOK`.

Knows nothing of how it is shown.
"""

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from monosem.errors import StoreError
from monosem.progress import progress
from monosem.run import Manifest, Shard
from monosem.store.shard_file import Extent, ShardFile, Where
from monosem.store.shards import index_of, is_far, open_shards, store_manifest, verify, where_of
from monosem.store.stats import FILE as STATISTICS
from monosem.store.stats import Statistics, merge

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
READ_ROWS = 8192


class Checked(NamedTuple):
    """The result of comparing every checksum."""

    shards: int
    bytes: int
    damaged: dict[str, str]
    """What is wrong, by the name of the shard."""


class Listed(NamedTuple):
    """One shard."""

    name: str
    rows: int
    bytes: int
    dtype: str | None
    """As stored; None: it holds no activations, or is missing."""
    archive: str | None


class Summary(NamedTuple):
    """A store in figures."""

    kind: str
    """`activations` or `batches`."""
    model: str
    """Name or fingerprint of the language model."""
    hook_point: str
    dtype: str
    """Number format on disk."""
    d: int
    shards: int
    bytes: int
    rows: int
    measured: int
    """Activations that the figures below are of: all that are stored, or those for training."""
    mean_norm: float
    norm_quantiles: dict[str, float]
    total_variance: float
    counts: dict[str, Any]
    """What the stage counted, the dropped activations among it."""


def check(folder: Path) -> Checked:
    """Compare every shard with its checksum, over all cores; nothing is raised for a shard that is damaged.

    Raises:
        StoreError: the store is not finished, or its index is damaged.
    """
    shards = store_manifest(folder).shards

    def wrong(shard: Shard) -> str | None:
        try:
            verify(where_of(folder, shard), shard)
        except StoreError as error:
            return str(error)
        return None

    damaged: dict[str, str] = {}
    with (
        progress("verify", sum(shard.bytes for shard in shards), "bytes") as advance,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for shard, problem in zip(shards, pool.map(wrong, shards), strict=True):
            advance(shard.bytes)
            if problem is not None:
                damaged[shard.name] = problem
    return Checked(len(shards), sum(shard.bytes for shard in shards), damaged)


def listing(folder: Path) -> list[Listed]:
    """Every shard of a finished store; only headers are read."""
    manifest, index = store_manifest(folder), index_of(folder)
    found: list[Listed] = []
    for shard in manifest.shards:
        where, dtype = where_of(folder, shard), None
        if is_far(where):  # a header is not worth fetching a shard: the manifest tells as well
            dtype = _recorded_dtype(manifest) if shard.rows else None
        else:
            with contextlib.suppress(StoreError):
                dtype = _dtype(where)
        archive = where.path.name if isinstance(where, Extent) else index and index.shards[shard.name].archive
        found.append(Listed(shard.name, shard.rows, shard.bytes, dtype, archive))
    return found


def summary(folder: Path) -> Summary:
    """A finished store in figures; one without statistics of its own is read through.

    Raises:
        StoreError: a shard is missing or damaged.
    """
    manifest = store_manifest(folder)
    origin = manifest.counts.get("origin", {"recipe": manifest.recipe, "inputs": manifest.inputs})
    filled = [shard for shard in manifest.shards if shard.rows]
    if not filled:
        raise StoreError(f"{folder}: holds no activations")
    where = where_of(folder, filled[0])
    recorded = _recorded_dtype(manifest) if is_far(where) else None
    statistics = _statistics(folder, manifest)
    return Summary(
        kind=manifest.stage,
        model=str(manifest.counts.get("model") or origin["inputs"].get("model", "unknown")),
        hook_point=str(origin["recipe"].get("hook_point", folder.name)),
        dtype=str(recorded or _dtype(where)),
        d=len(statistics.mean),
        shards=len(manifest.shards),
        bytes=sum(shard.bytes for shard in manifest.shards),
        rows=sum(shard.rows for shard in manifest.shards),
        measured=statistics.count,
        mean_norm=statistics.mean_norm,
        norm_quantiles={str(q): statistics.norm_quantile(q) for q in QUANTILES},
        total_variance=statistics.total_variance,
        counts={name: value for name, value in manifest.counts.items() if name not in ("origin", "norm_quantiles")},
    )


def _statistics(folder: Path, manifest: Manifest) -> Statistics:
    if any(shard.name == STATISTICS for shard in manifest.shards):
        return Statistics.load(folder)
    opened = open_shards(folder)

    def blocks(file: ShardFile) -> Iterator[torch.Tensor]:
        for start in range(0, file.rows, READ_ROWS):
            yield file.activations(start, min(start + READ_ROWS, file.rows))

    parts: list[Statistics] = []
    with progress("stats", opened.rows, "activations") as advance:
        for file in map(ShardFile, opened.paths):
            for block in blocks(file):
                parts = [merge([*parts, Statistics.of(block)])]
                advance(len(block))
    return parts[0]


def _dtype(where: Where) -> str | None:
    """Number format of a shard's activations."""
    field = ShardFile(where).fields.get("activations")
    return None if field is None else str(field.dtype).removeprefix("torch.")


def _recorded_dtype(manifest: Manifest) -> str | None:
    """Number format that a store was captured in."""
    return manifest.counts.get("origin", {"recipe": manifest.recipe})["recipe"].get("dtype")
