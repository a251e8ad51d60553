"""One stage's folder while it is made or read.

Flow: the stage adds shards as they are finished (a journal, so that an interrupted stage goes on) and `finish` writes
its manifest. Several ranks may make a stage together, each with a journal of its own. A stage's fingerprint is made of
its part of the recipe and its inputs' fingerprints. Knows nothing of what the shards hold.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from monosem.atomic import remove_leftovers, sha256, write_text
from monosem.errors import RunError
from monosem.ranks import Ranks
from monosem.run.manifest import MANIFEST, SCHEMA, Manifest, Shard, fingerprint, first_difference, read_manifest

JOURNAL = "shards.jsonl"
JOURNALS = "shards*.jsonl"  # that of rank 0 and those of the others


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

    def write(self, files: Mapping[str, Callable[[Path], int]]) -> None:
        """Begin, and write every file that an interrupted process did not, in order.

        Args:
            files: by name, what writes the file and returns its number of rows.
        """
        done = {shard.name for shard in self.begin()}
        for name, write in files.items():
            if name not in done:
                self.add_shard(name, write(self.path / name))

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
        self.manifest = self._ranks.once(f"{self.path.name}: finish", lambda: self._write_manifest(update))
        return self.manifest

    def _open(self) -> list[Shard]:
        self.path.mkdir(parents=True, exist_ok=True)
        if read_manifest(self.path) is None:
            write_text(self.path / MANIFEST, self._expected.model_dump_json(indent=2) + "\n")
        return self._read_journals()

    def _write_manifest(self, update: Mapping[str, Any]) -> Manifest:
        manifest = self._expected.model_copy(update=update)
        write_text(self.path / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        for journal in self.path.glob(JOURNALS):
            journal.unlink()
        return manifest

    def _check(self, found: Manifest) -> None:
        if found.fingerprint == self._expected.fingerprint:
            return
        changed = first_difference(found.recipe, self._expected.recipe) or first_difference(
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


def _timestamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
