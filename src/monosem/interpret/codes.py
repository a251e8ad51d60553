"""The codes of a store in files: whole sentences with the latents that are active at each token.

Everything is a flat array, one entry for each active latent of each token. `StoredCodes` reads the stage `codes`, file
by file or only the sentences that are asked for. Knows nothing of SAEs or of what the codes are good for.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save_file

from monosem.atomic import atomic_path, sha256
from monosem.errors import RunError
from monosem.run import Shard, Stage

SMALL = 1 << 16  # latents up to here are stored as uint16
DTYPES = {"I64": np.int64, "I32": np.int32, "U16": np.uint16, "F32": np.float32}


class Codes(NamedTuple):
    """Codes of S whole sentences with R tokens in the store and E active latents."""

    sentence: NDArray[np.int64]
    """[S] ascending."""
    length: NDArray[np.int32]
    """[S]: stored tokens of each sentence; their rows stand one after the other below."""
    position: NDArray[np.int32]
    """[R] place in the sentence, ascending within it."""
    token: NDArray[np.int32]
    """[R] vocabulary ids."""
    active: NDArray[np.int32]
    """[R]: active latents of each row; their entries stand one after the other below."""
    latent: NDArray[np.integer]
    """[E]"""
    value: NDArray[np.float32]
    """[E], not 0."""

    @classmethod
    def of(
        cls, values: ArrayLike, indices: ArrayLike, sentence: ArrayLike, position: ArrayLike, token: ArrayLike
    ) -> "Codes":
        """From what an encoder gives: `values` and `indices` [R, k], the others [R]. A value of 0 is not active."""
        values, indices, sentence = np.asarray(values), np.asarray(indices), np.asarray(sentence)
        active = values != 0
        starts = np.flatnonzero(np.diff(sentence, prepend=sentence[:1] - 1))
        return cls(
            sentence[starts].astype(np.int64),
            np.diff(starts, append=len(sentence)).astype(np.int32),
            np.asarray(position).astype(np.int32),
            np.asarray(token).astype(np.int32),
            active.sum(1, dtype=np.int32),
            indices[active].astype(np.int32),
            values[active].astype(np.float32),
        )

    @property
    def rows(self) -> int:
        return len(self.position)

    def row(self) -> NDArray[np.int32]:
        """[E] row of each entry."""
        return np.repeat(np.arange(self.rows, dtype=np.int32), self.active)

    def ordinal(self) -> NDArray[np.int32]:
        """[R] place of each row's sentence in `sentence`."""
        return np.repeat(np.arange(len(self.sentence), dtype=np.int32), self.length)

    def between(self, start: int, stop: int) -> "Codes":
        """The sentences from `start` to before `stop` of these; nothing is copied."""
        rows = np.append(0, np.cumsum(self.length, dtype=np.int64))[[start, stop]]
        entries = int(self.active[: rows[0]].sum(dtype=np.int64)), int(self.active[: rows[1]].sum(dtype=np.int64))
        of_rows = slice(*rows.tolist())
        return Codes(
            self.sentence[start:stop],
            self.length[start:stop],
            self.position[of_rows],
            self.token[of_rows],
            self.active[of_rows],
            self.latent[slice(*entries)],
            self.value[slice(*entries)],
        )

    def blocks(self, entries: int) -> Iterator["Codes"]:
        """Blocks of whole sentences with about so many entries."""
        if not len(self.sentence):
            return
        first_row = np.cumsum(self.length, dtype=np.int64) - self.length
        before = (np.cumsum(self.active, dtype=np.int64) - self.active)[first_row]
        cuts = np.flatnonzero(np.diff(before // entries, prepend=-1))
        for start, stop in zip(cuts, np.append(cuts[1:], len(self.sentence)), strict=True):
            yield self.between(int(start), int(stop))

    def chosen(self, which: NDArray[np.integer]) -> "Codes":
        """The sentences with these places, in ascending order."""
        rows = np.concatenate([_spread(self.length, which), np.zeros(0, np.int64)])
        entries = _spread(self.active, rows)
        return Codes(
            self.sentence[which],
            self.length[which],
            self.position[rows],
            self.token[rows],
            self.active[rows],
            self.latent[entries],
            self.value[entries],
        )

    def save(self, path: Path, n: int) -> None:
        """Write a file of the stage, atomically."""
        tensors = self._asdict() | {"latent": self.latent.astype(np.uint16 if n <= SMALL else np.int32)}
        with atomic_path(path) as temporary:
            save_file({name: np.ascontiguousarray(column) for name, column in tensors.items()}, temporary)


class StoredCodes:
    """The finished stage `codes`."""

    def __init__(self, stage: Stage) -> None:
        self.folder, self.manifest = stage.path, stage.require().manifest
        self.n: int = self.manifest.counts["n"]
        self.rows: int = self.manifest.counts["rows"]
        self.sentences: int = self.manifest.counts["sentences"]

    @property
    def shards(self) -> list[Shard]:
        return self.manifest.shards

    def read(self, shard: Shard) -> Codes:
        """A file whole.

        Raises:
            RunError: it is missing or its checksum differs.
        """
        path = self.folder / shard.name
        if not path.exists() or sha256(path) != shard.sha256:
            state = "damaged, its sha256 is not the manifest's" if path.exists() else "missing"
            raise RunError(f"{path}: {state}; make it again with --redo codes")
        tensors = load_file(path)
        return Codes(*(tensors[name] for name in Codes._fields))

    def sentences_of(self, shard: Shard) -> NDArray[np.int64]:
        """The sentences of a file, without the rest of it."""
        return np.array(self._mapped(shard).sentence)

    def take(self, shard: Shard, which: NDArray[np.integer]) -> Codes:
        """The sentences with these places in a file, in ascending order; little else is read of it.

        Raises:
            RunError: the file is missing or damaged.
        """
        return self._mapped(shard).chosen(which)

    def _mapped(self, shard: Shard) -> Codes:
        """A file where it lies on disk: what is not looked at is not read."""
        path = self.folder / shard.name
        try:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size))
            columns = []
            for name in Codes._fields:
                (rows,), start = header[name]["shape"], 8 + size + header[name]["data_offsets"][0]
                dtype = DTYPES[header[name]["dtype"]]
                columns.append(np.memmap(path, dtype, "r", start, (rows,)) if rows else np.zeros(0, dtype))
            return Codes(*columns)
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{path}: damaged or missing ({error}); make it again with --redo codes") from None


def _spread(lengths: NDArray[np.integer], chosen: NDArray[np.integer]) -> NDArray[np.int64]:
    """The numbers of all elements of the chosen runs; run i has `lengths[i]`."""
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    length = lengths[chosen].astype(np.int64)
    before = np.cumsum(length) - length
    return np.arange(int(length.sum()), dtype=np.int64) + np.repeat(starts[chosen] - before, length)
