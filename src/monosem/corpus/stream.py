"""A dataset of the Hugging Face hub, streamed: nothing but what is read is downloaded.

Only its files, read in order, tell where a document lies. So the number of each one's first document is kept in the
cache, and who goes on in the middle begins with the file that holds the next one. To forget it costs time alone.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from monosem.assets import Asset, hub
from monosem.assets.cache import cache_folder
from monosem.atomic import write_text
from monosem.corpus.documents import Document, Fields
from monosem.errors import AssetError
from monosem.recipe import CorpusRecipe

ROWS_AT_ONCE = 256


class HubStream:
    """The train split of a dataset."""

    def __init__(self, name: str, recipe: CorpusRecipe) -> None:
        self._name, self._recipe = name, recipe
        self._hub_name = hub.HubName.parse(name)

    @property
    def asset(self) -> Asset:
        licence = hub.licence(self._hub_name, "dataset")
        return Asset(Path(), hub.fingerprint(self._hub_name, "dataset"), licence, self._name)

    def count(self) -> int | None:
        return None

    def documents(self, skip: int = 0) -> Iterator[Document]:
        try:
            import datasets
        except ImportError:
            raise AssetError(f"{self._name}: needs the package datasets; pip install 'monosem[hub]'") from None
        fields = Fields(self._name, self._recipe)
        with hub.reaching(self._hub_name):
            revision = hub.commit(self._hub_name, "dataset")
            stream = datasets.load_dataset(self._hub_name.repository, split="train", streaming=True, revision=revision)
        memory = _Beginnings(cache_folder() / "hub" / "dataset" / self._hub_name.repository / f"{revision}.json")
        begin, at = memory.before(skip)
        for number in range(begin, stream.num_shards):
            memory.learn(number, at)
            rows = iter(stream.shard(stream.num_shards, number))
            while batch := self._next(rows):
                for row in batch[max(0, skip - at) :]:
                    yield fields.document(row, self._name)
                at += len(batch)

    def _next(self, rows: Iterator[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        with hub.reaching(self._hub_name):
            return list(islice(rows, ROWS_AT_ONCE))


class _Beginnings:
    """At which document each file of a dataset begins, as far as it was read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = [0]
        with contextlib.suppress(FileNotFoundError, ValueError):
            self._known = json.loads(path.read_text(encoding="utf-8"))

    def before(self, document: int) -> tuple[int, int]:
        """The number of the last file known to begin at or before a document, and its first document."""
        number = max(number for number, first in enumerate(self._known) if first <= document)
        return number, self._known[number]

    def learn(self, number: int, first: int) -> None:
        if number == len(self._known):
            self._known.append(first)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(self._known))
