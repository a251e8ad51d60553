"""Documents, one after the other, out of the embedded Wikipedia, local files, or a dataset streamed from the hub.

Flow: `open_source` tells from a name what it is; a `Source` counts its documents if it can, and yields them from any
place on, so that an interrupted stage goes on in the middle. Knows nothing of sentences.
"""

import json
from collections.abc import Iterator
from typing import Protocol

from monosem import assets
from monosem.assets import Asset
from monosem.corpus import files
from monosem.corpus.documents import Document, Fields
from monosem.corpus.stream import HubStream
from monosem.recipe import CorpusRecipe

WIKIPEDIA_LANGUAGES = {"wikipedia-en": "english", "wikipedia-fr": "french", "wikipedia-es": "spanish"}


class Source(Protocol):
    """An ordered collection of documents."""

    @property
    def asset(self) -> Asset:
        """What it reads; a stream's has no path."""
        ...

    def count(self) -> int | None:
        """Number of documents; None if only reading to the end would tell."""
        ...

    def documents(self, skip: int = 0) -> Iterator[Document]:
        """The documents in order, without the first `skip`."""
        ...


def open_source(name: str, recipe: CorpusRecipe) -> Source:
    """The source that `recipe.sources` names, fetched if need be.

    Raises:
        AssetError: it cannot be had.
        CorpusError: it is not of a kind that is read here.
    """
    if name in WIKIPEDIA_LANGUAGES:
        return Wikipedia(assets.resolve(name), WIKIPEDIA_LANGUAGES[name])
    if name.startswith("hf:") and "!/" not in name:
        return HubStream(name, recipe)
    return Files(assets.resolve(name, kind="dataset"), recipe)


def fingerprint(name: str) -> str:
    """Names the content of a source, without a download where the name or a cache tells."""
    return assets.fingerprint(name, kind="dataset")


class Wikipedia:
    """Summaries of articles with their topics: a JSON object of `{title, extract, topic}` by title."""

    def __init__(self, asset: Asset, language: str) -> None:
        self.asset = asset
        self._name, self._language = asset.source, language
        self._articles = list(json.loads(asset.path.read_text(encoding="utf-8")).values())

    def count(self) -> int | None:
        return len(self._articles)

    def documents(self, skip: int = 0) -> Iterator[Document]:
        for article in self._articles[skip:]:
            yield Document(article["extract"], article["title"], article.get("topic") or "", self._name, self._language)


class Files:
    """A Parquet, JSONL (also gzipped) or text file, or a folder of such, read in the order of their names."""

    def __init__(self, asset: Asset, recipe: CorpusRecipe) -> None:
        self.asset = asset
        self._recipe = recipe
        self._readers = files.readers(asset.path)

    def count(self) -> int | None:
        return sum(reader.count() for reader in self._readers)

    def documents(self, skip: int = 0) -> Iterator[Document]:
        fields = Fields(self.asset.source, self._recipe)
        for reader in self._readers:
            if skip and (rows := reader.count()) <= skip:
                skip -= rows
                continue
            for row in reader.rows(skip, fields.names):
                yield fields.document(row, reader.path)
            skip = 0
