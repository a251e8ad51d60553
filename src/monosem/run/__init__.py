"""Runs on disk: where each stage's files lie, what made them, and whether they are whole.

Flow: `Run` writes the resolved recipe, `run.lock()` keeps a second process out, `run.stage(folder, ...)` opens a stage,
which writes its files one after the other and then its manifest.
"""

from monosem.run.folder import Run, resolve
from monosem.run.manifest import MANIFEST, Manifest, Shard, fingerprint, read_manifest
from monosem.run.stage import Stage

__all__ = ["MANIFEST", "Manifest", "Run", "Shard", "Stage", "fingerprint", "read_manifest", "resolve"]
