"""Stores on the terminal: what `monosem store verify|ls|stats|merge|pack` print."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from monosem.errors import RecipeError, StoreError
from monosem.store import inspection, merging, remote
from monosem.store import pack as packing
from monosem.store.far import is_url


def verify(place: str, *, as_json: bool) -> None:
    """Compare every shard of the store at a path or URL with its checksum.

    Raises:
        StoreError: the store is not finished, or a shard is damaged or missing; all of them are printed before.
    """
    found = inspection.check(_folder(place))
    if as_json:
        print(json.dumps({**found._asdict(), "whole": not found.damaged}))
    else:
        for problem in found.damaged.values():
            print(problem)
    if found.damaged:
        raise StoreError(
            f"{place}: {len(found.damaged)} of {found.shards} shards damaged or missing: {', '.join(found.damaged)}"
        )
    if not as_json:
        print(f"{place}: whole, {found.shards} shards, {found.bytes / 1e9:.3f} GB")


def list_shards(place: str, *, as_json: bool) -> None:
    """Print every shard."""
    shards = inspection.listing(_folder(place))
    if as_json:
        print(json.dumps([shard._asdict() for shard in shards]))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("shard", "left"), ("rows", "right"), ("bytes", "right"), ("format", "left"), ("in", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for shard in shards:
        table.add_row(shard.name, f"{shard.rows:,}", f"{shard.bytes:,}", shard.dtype or "", shard.archive or "")
    rows, size = sum(shard.rows for shard in shards), sum(shard.bytes for shard in shards)
    table.add_section()
    table.add_row(f"{len(shards)} shards", f"{rows:,}", f"{size:,}")
    Console(highlight=False).print(table)


def stats(place: str, *, as_json: bool) -> None:
    """Print a store in figures."""
    found = inspection.summary(_folder(place))
    if as_json:
        print(json.dumps(found._asdict()))
        return
    quantiles = "  ".join(f"{100 * float(q):g} %: {norm:.4g}" for q, norm in found.norm_quantiles.items())
    rows: dict[str, Any] = {
        "kind": found.kind,
        "model": found.model,
        "hook point": found.hook_point,
        "format": f"{found.dtype}, d {found.d}",
        "shards": f"{found.shards}, {found.bytes / 1e9:.3f} GB",
        "activations": f"{found.rows:,}",
        "measured on": f"{found.measured:,}" + (" (the training set)" if found.kind == "batches" else ""),
        "mean norm": f"{found.mean_norm:.4g}",
        "norm quantiles": quantiles,
        "total variance": f"{found.total_variance:.6g}",
    }
    rows |= {
        name: value for name, value in found.counts.items() if name not in ("rows", "d", "model") and value is not None
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in rows.items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
    Console(highlight=False).print(table)


def merge(target: Path, sources: Sequence[Path], *, as_json: bool) -> None:
    """Join stores, and print what was made.

    Raises:
        RecipeError: there is nothing to join.
        StoreError: they do not belong together.
    """
    if len(sources) < 2:
        raise RecipeError("monosem store merge: expected a new folder and at least two stores")
    made = merging.merge(sources, target)
    if as_json:
        print(json.dumps(made._asdict()))
        return
    print(f"{made.folder}: {made.rows:,} activations in {made.shards} shards, {made.linked} of them linked")


def pack(place: str, target: str, gigabytes: float, *, as_json: bool) -> None:
    """Pack a store, and print what was made.

    Raises:
        RecipeError: an archive would have no size.
        StoreError: the store is damaged, or the target holds another.
    """
    if gigabytes <= 0:
        raise RecipeError(f"--gb {gigabytes}: expected more than 0")
    made = packing.pack(_folder(place), target, gigabytes)
    if as_json:
        print(json.dumps(made._asdict()))
        return
    kept = f", {made.kept} of them there already" if made.kept else ""
    print(f"{made.target}: {made.shards} shards in {made.archives} archives, {made.bytes / 1e9:.3f} GB{kept}")


def _folder(place: str) -> Path:
    """The store at a path or URL."""
    return remote.mirror(place) if is_url(place) else Path(place)
