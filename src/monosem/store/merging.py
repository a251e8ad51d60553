"""Several finished stores of activations as one: parts of one capture that were made in different places.

A sentence's number says where its text is, so that all parts come from the same sentences and none holds a sentence of
another. Shards are linked, not copied, where the disk allows it.
"""

import contextlib
import os
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from monosem.atomic import atomic_folder, atomic_path
from monosem.errors import StoreError
from monosem.run import MANIFEST, Manifest, Shard
from monosem.store.encoding import CENTRE
from monosem.store.pack import CALIBRATION
from monosem.store.shard_file import ShardFile
from monosem.store.shards import open_shards, store_manifest

SUMMED = ("tokens", "dropped_first", "dropped_norm", "nonfinite", "dropped_elsewhere")


class Merged(NamedTuple):
    """What was made."""

    folder: str
    shards: int
    rows: int
    linked: int
    """Shards that take no room of their own."""


class Part(NamedTuple):
    """A shard and the sentences it holds."""

    path: Path
    shard: Shard
    first: int
    last: int


def merge(folders: Sequence[Path], target: Path) -> Merged:
    """Join stores of activations into the new folder `target`.

    Raises:
        StoreError: a store is damaged or packed, the stores differ in a key, a sentence is in two of them, or the
            target is there already.
    """
    if target.exists():
        raise StoreError(f"{target}: is there already; choose another folder")
    manifests = [store_manifest(folder) for folder in folders]
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        _check_same(folders[0], manifests[0], folder, manifest)
    parts = sorted((part for folder in folders for part in _parts(folder)), key=lambda part: part.first)
    _check_apart(parts)
    with atomic_folder(target) as temporary:
        shards = [part.shard.model_copy(update={"name": _name(number)}) for number, part in enumerate(parts)]
        linked = sum(_place(part.path, temporary / shard.name) for part, shard in zip(parts, shards, strict=True))
        if (calibration := folders[0] / CALIBRATION).exists():
            shutil.copy(calibration, temporary / CALIBRATION)
        merged = manifests[0].model_copy(update={"shards": shards, "counts": _counts(manifests, shards)})
        (temporary / MANIFEST).write_text(merged.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return Merged(str(target), len(shards), sum(shard.rows for shard in shards), linked)


def _name(number: int) -> str:
    return f"activations-{number:05d}.safetensors"


def _check_same(first: Path, expected: Manifest, folder: Path, found: Manifest) -> None:
    """Name the first key in which two stores differ."""
    if found.stage != "activations":
        raise StoreError(f"{folder}: {found.stage}, not activations; merge activations, then prepare them together")
    measured = ("median_norm", "norm_threshold", "d")
    for name, one, other in (
        ("recipe", expected.recipe, found.recipe),
        ("inputs", expected.inputs, found.inputs),
        ("counts", *({key: m.counts.get(key) for key in measured} for m in (expected, found))),
    ):
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                raise StoreError(
                    f"{folder}: differs from {first} in {name}.{key}: {other.get(key)!r}, expected {one.get(key)!r}; "
                    "only parts of one capture can be merged"
                )


def _parts(folder: Path) -> list[Part]:
    """The shards of a store, whose checksums are compared, with their first and last sentences."""
    opened = open_shards(folder)
    parts: list[Part] = []
    for shard, where in zip(opened.shards, opened.paths, strict=True):
        if not isinstance(where, Path):
            raise StoreError(f"{folder}: is packed or far away; merge its shards before packing them")
        if shard.rows:
            sentence = ShardFile(where).read("sentence")
            parts.append(Part(where, shard, int(sentence[0]), int(sentence[-1])))
    return parts


def _check_apart(parts: Sequence[Part]) -> None:
    """No sentence twice, and one int8 centre."""
    for before, after in pairwise(parts):
        if after.first <= before.last:
            raise StoreError(
                f"{after.path}: sentence {after.first} lies among those of {before.path}; "
                "only parts of one capture that share no sentence can be merged"
            )
    files = [ShardFile(part.path) for part in parts]
    for part, file in zip(parts, files, strict=True):
        if file.encoded and not torch.equal(file.read(CENTRE), files[0].read(CENTRE)):
            raise StoreError(f"{part.path}: another int8 centre than {parts[0].path}; only parts of one capture merge")


def _place(source: Path, path: Path) -> bool:
    """Link a shard, or copy it where that cannot be; returns whether it is a link."""
    with contextlib.suppress(OSError):
        os.link(source, path)
        return True
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)
    return False


def _counts(manifests: Sequence[Manifest], shards: Sequence[Shard]) -> dict[str, Any]:
    counts = dict(manifests[0].counts)
    counts |= {name: sum(m.counts[name] for m in manifests) for name in SUMMED if name in counts}
    sums = [sum(shard.info.get(name, 0.0) for shard in shards) for name in ("squared_error", "squared_distance")]
    if "added_fvu" in counts and sums[1]:
        counts["added_fvu"] = sums[0] / sums[1]
    return counts | {"rows": sum(shard.rows for shard in shards)}
