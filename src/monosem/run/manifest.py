"""What a complete stage folder holds and what made it: `manifest.json`, its shards, and fingerprints of recipes."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from monosem.errors import RunError

SCHEMA = 1
MANIFEST = "manifest.json"


class Shard(BaseModel):
    """One finished file of a stage."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Path below the stage folder."""
    rows: int
    bytes: int
    sha256: str
    info: dict[str, Any] = {}
    """What the stage wants to know of the shard without opening it."""


class Manifest(BaseModel):
    """What a complete stage folder holds, and what made it."""

    schema_version: int = SCHEMA
    stage: str
    recipe: dict[str, Any]
    inputs: dict[str, str]
    fingerprint: str
    shards: list[Shard] = []
    counts: dict[str, Any] = {}
    complete: bool = False
    started: str = ""
    finished: str = ""
    seconds: float = 0.0


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in `folder`, or None if there is none.

    Raises:
        RunError: it is not a manifest of this version.
    """
    file = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValidationError, UnicodeDecodeError):
        raise RunError(f"{file}: not a manifest; make the stage again with --redo") from None
    if manifest.schema_version != SCHEMA:
        raise RunError(
            f"{file}: format {manifest.schema_version}, this version reads {SCHEMA}; make it again with --redo"
        )
    return manifest


def fingerprint(value: Any) -> str:
    """Digest of a JSON value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def first_difference(found: Mapping[str, Any], expected: Mapping[str, Any], prefix: str = "") -> str:
    """The first key that differs, with both values; empty: none does."""
    for key in sorted({*found, *expected}):
        old, new = found.get(key), expected.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = first_difference(old, new, f"{prefix}{key}.")
            if inner:
                return inner
        elif old != new:
            return f"{prefix}{key}: the files have {old!r}, the recipe says {new!r}"
    return ""
