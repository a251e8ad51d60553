"""The run folder: where each stage's files lie, what made them, and whether they are whole.

Flow: `Run.create` writes the resolved recipe, `run.lock()` keeps a second process out, `run.stage(name)` opens a stage
folder; the stage adds shards as they are finished (a journal, so that an interrupted stage goes on) and `finish` writes
its `manifest.json`. Several ranks may make a stage together, each with a journal of its own. A stage's fingerprint is
made of its part of the recipe and its inputs' fingerprints. Knows nothing of what the shards hold.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from monosem import recipe as recipes
from monosem.atomic import remove_leftovers, sha256, write_text
from monosem.errors import RunError
from monosem.ranks import Ranks
from monosem.recipe import Recipe

SCHEMA = 1
MANIFEST = "manifest.json"
JOURNAL = "shards.jsonl"
JOURNALS = "shards*.jsonl"  # that of rank 0 and those of the others


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


class Stage:
    """One stage's folder while it is made or read. Made by `Run.stage`."""

    def __init__(self, path: Path, name: str, part: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        self.path, self.name = path, name
        self._expected = Manifest(
            stage=name,
            recipe=json.loads(json.dumps(part)),
            inputs=dict(inputs),
            fingerprint=fingerprint({"schema": SCHEMA, "stage": name, "recipe": part, "inputs": inputs}),
        )
        self._started, self._ranks, self._begun = time.time(), Ranks(), 0
        found = read_manifest(path)
        if found is not None:
            self._check(found)
        self.manifest = found if found is not None and found.complete else self._expected
        self.shards: list[Shard] = list(self.manifest.shards)

    @property
    def complete(self) -> bool:
        return self.manifest.complete

    @property
    def fingerprint(self) -> str:
        return self._expected.fingerprint

    def require(self) -> "Stage":
        """This stage, if its files are there.

        Raises:
            RunError: it has not been made or was interrupted.
        """
        if not self.complete:
            state = "was interrupted" if (self.path / MANIFEST).exists() else "has not been made"
            raise RunError(f"{self.path}: {self.name} {state}; make it with: monosem run RECIPE")
        return self

    def begin(self, ranks: Ranks | None = None) -> list[Shard]:
        """Open the folder for writing; returns the shards that interrupted processes finished.

        Args:
            ranks: who makes the stage together; every one of them calls this, `collect` and `finish`. None: this
                process alone.
        """
        self._ranks = ranks or Ranks()
        self.shards = self._ranks.once(f"{self.path.name}: begin", self._open)
        self._begun = len(self.shards)
        return self.shards

    def add_shard(self, name: str, rows: int, **info: Any) -> Shard:
        """Record a file that is whole on disk, so that a restarted stage goes on after it."""
        file = self.path / name
        shard = Shard(name=name, rows=rows, bytes=file.stat().st_size, sha256=sha256(file), info=info)
        own = JOURNAL if self._ranks.first else JOURNALS.replace("*", f"-{self._ranks.rank:05d}")
        with (self.path / own).open("a", encoding="utf-8") as journal:
            journal.write(shard.model_dump_json() + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        self.shards.append(shard)
        return shard

    def collect(self) -> list[Shard]:
        """The shards of all ranks, once each of them has made its own."""
        begun, made = self.shards[: self._begun], self.shards[self._begun :]
        self.shards = begun + [shard for part in self._ranks.gather(f"{self.path.name}: end", made) for shard in part]
        self._begun = len(self.shards)
        return self.shards

    def finish(self, **counts: Any) -> Manifest:
        """Write the manifest that makes the stage complete; its shards are sorted by name."""
        self.collect()
        last = {shard.name: shard for shard in self.shards}  # one written again after a crash counts once
        update = {
            "shards": [last[name] for name in sorted(last)],
            "counts": counts,
            "complete": True,
            "started": _timestamp(self._started),
            "finished": _timestamp(time.time()),
            "seconds": round(time.time() - self._started, 3),
        }
        self.manifest = self._ranks.once(f"{self.path.name}: finish", lambda: self._write(update))
        return self.manifest

    def _open(self) -> list[Shard]:
        self.path.mkdir(parents=True, exist_ok=True)
        if read_manifest(self.path) is None:
            write_text(self.path / MANIFEST, self._expected.model_dump_json(indent=2) + "\n")
        return self._read_journals()

    def _write(self, update: Mapping[str, Any]) -> Manifest:
        manifest = self._expected.model_copy(update=update)
        write_text(self.path / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        for journal in self.path.glob(JOURNALS):
            journal.unlink()
        return manifest

    def _check(self, found: Manifest) -> None:
        if found.fingerprint == self._expected.fingerprint:
            return
        changed = _first_difference(found.recipe, self._expected.recipe) or _first_difference(
            found.inputs, self._expected.inputs
        )
        raise RunError(
            f"{self.path}: made with another recipe ({changed or 'another version of the format'}); "
            f"give the new run its own --name, or make this stage and what follows again with --redo"
        )

    def _read_journals(self) -> list[Shard]:
        """Shards of an interrupted stage; a line torn by the interruption, or a file that is gone, is made again."""
        remove_leftovers(self.path)
        shards: dict[str, Shard] = {}
        journals = sorted(self.path.glob(JOURNALS))
        for line in [line for journal in journals for line in journal.read_text(encoding="utf-8").splitlines()]:
            with contextlib.suppress(ValidationError):
                shard = Shard.model_validate_json(line)
                if (self.path / shard.name).exists():
                    shards[shard.name] = shard
        if journals:
            write_text(self.path / JOURNAL, "".join(shard.model_dump_json() + "\n" for shard in shards.values()))
        for journal in journals:  # of ranks that may not come back: their lines stand in the first one now
            if journal.name != JOURNAL:
                journal.unlink()
        return list(shards.values())


class Run:
    """A run folder and the recipe that made it, and the ranks that work on it."""

    def __init__(self, path: Path, recipe: Recipe, ranks: Ranks | None = None) -> None:
        """Open a run.

        Args:
            ranks: None: this process alone.
        """
        self.path, self.recipe, self.ranks = path, recipe, ranks or Ranks()

    def save_recipe(self) -> None:
        """Write the resolved recipe into the folder; called once the lock is held and no stage objects to it."""
        file, text = self.path / "recipe.toml", recipes.dump(self.recipe)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            write_text(file, text)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Open a folder that a run made.

        Raises:
            RunError: `path` is not a run folder.
        """
        file = path / "recipe.toml"
        if not file.is_file():
            raise RunError(f"{path}: not a run folder (no recipe.toml); make one with: monosem run RECIPE")
        return cls(path, recipes.load(file))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder for the ranks of this run: rank 0 takes it, the others hold it with rank 0.

        Raises:
            RunError: another process holds it, such as a rank of an earlier start; or a rank does not see it.
        """
        with contextlib.ExitStack() as held:
            holder = self.ranks.once("the run folder", lambda: self._hold(held))
            if not self.ranks.first:
                self._hold_too(held, holder)
            self.ranks.barrier("the run folder")
            yield
        self.ranks.barrier("the end of work in the run folder")  # who takes it next finds that all have let it go

    def _hold(self, held: contextlib.ExitStack) -> str:
        self.path.mkdir(parents=True, exist_ok=True)
        file = held.enter_context((self.path / ".lock").open("a+", encoding="utf-8"))
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            other = file.read().strip() or "another process"
            raise RunError(f"{self.path}: in use by {other}; wait for it, or give this run its own --name") from None
        held.callback(file.truncate, 0)
        file.truncate(0)
        file.write(holder)
        file.flush()
        remove_leftovers(self.path)
        if self.ranks.world > 1:
            fcntl.flock(file, fcntl.LOCK_SH)
        return holder

    def _hold_too(self, held: contextlib.ExitStack, holder: str) -> None:
        """A rank that outlives the others keeps a second start out, which would find files still being written."""
        file = self.path / ".lock"
        if not file.exists() or file.read_text(encoding="utf-8") != holder:
            raise RunError(
                f"{self.path}: rank {self.ranks.rank} on {socket.gethostname()} sees another folder than rank 0; "
                "keep the runs on a disk that all machines share"
            )
        fcntl.flock(held.enter_context(file.open(encoding="utf-8")), fcntl.LOCK_SH)

    def folder(self, name: str, hook_point: str | None = None) -> Path:
        """Path of a stage's folder: `activations` and `batches` have one for each hook point."""
        return self.path / name / hook_point if hook_point else self.path / name

    @property
    def sae_folder(self) -> Path:
        """Where the run's SAE is, once it is made: the fine-tuned one where the recipe asks for it."""
        return self.folder("finetune" if self.recipe.finetune.wanted else "sae") / "final"

    def stage(self, folder: Path, part: Mapping[str, Any], inputs: Mapping[str, str] | Sequence["Stage"] = ()) -> Stage:
        """Open a stage folder to make or skip it.

        Args:
            folder: from `self.folder`.
            part: the recipe keys that decide its bytes (`Section.fingerprint_part`).
            inputs: the stages it reads, or names and fingerprints.

        Raises:
            RunError: its files were made with other keys or inputs.
        """
        if not isinstance(inputs, Mapping):
            inputs = {stage.path.relative_to(self.path).as_posix(): stage.fingerprint for stage in inputs}
        return Stage(folder, folder.relative_to(self.path).parts[0], part, inputs)

    def remove(self, stages: Sequence[str]) -> list[str]:
        """Delete the folders of `stages`; returns the names that were there."""
        there = [name for name in stages if (self.path / name).exists()]
        for name in there:
            shutil.rmtree(self.path / name)
        return there


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


def resolve(target: str, runs: Path) -> Path | None:
    """The run folder that `target` names: a folder, or a name below `runs`. None: it is neither."""
    for path in (Path(target), runs / target):
        if (path / "recipe.toml").is_file():
            return path
    return None


def _first_difference(found: Mapping[str, Any], expected: Mapping[str, Any], prefix: str = "") -> str:
    """The first key that differs, with both values."""
    for key in sorted({*found, *expected}):
        old, new = found.get(key), expected.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = _first_difference(old, new, f"{prefix}{key}.")
            if inner:
                return inner
        elif old != new:
            return f"{prefix}{key}: the files have {old!r}, the recipe says {new!r}"
    return ""


def _timestamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
