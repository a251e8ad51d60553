"""Documents, one after the other, out of the embedded Wikipedia, local files, or a dataset streamed from the hub.

Flow: `open_source` tells from a name what it is; a `Source` counts its documents if it can, and yields them from any
place on, so that an interrupted stage goes on in the middle. Knows nothing of sentences.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from monosem import assets
from monosem.assets import Asset, hub
from monosem.corpus import files
from monosem.errors import AssetError, CorpusError
from monosem.recipe import CorpusRecipe

WIKIPEDIA_LANGUAGES = {"wikipedia-en": "english", "wikipedia-fr": "french", "wikipedia-es": "spanish"}


class Document(NamedTuple):
    """A text and what is known of it."""

    text: str
    title: str
    label: str
    """A topic or class, empty where there is none."""
    source: str
    """The source's name in the recipe."""
    language: str
    """Name of the Punkt model for it."""


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
        fields = _Fields(self.asset.source, self._recipe)
        for reader in self._readers:
            if skip and (rows := reader.count()) <= skip:
                skip -= rows
                continue
            for row in reader.rows(skip, fields.names):
                yield fields.document(row, reader.path)
            skip = 0


class HubStream:
    """The train split of a dataset of the Hugging Face hub, streamed: nothing but what is read is downloaded."""

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
        fields = _Fields(self._name, self._recipe)
        with hub.reaching(self._hub_name):
            revision = hub.commit(self._hub_name, "dataset")
            stream = datasets.load_dataset(self._hub_name.repository, split="train", streaming=True, revision=revision)
            rows = iter(stream.skip(skip) if skip else stream)
        while batch := self._next(rows):
            for row in batch:
                yield fields.document(row, self._name)

    def _next(self, rows: Iterator[Mapping[str, Any]], size: int = 256) -> list[Mapping[str, Any]]:
        with hub.reaching(self._hub_name):
            return list(islice(rows, size))


class _Fields:
    """Rows of a file or dataset as documents, by the recipe's names of the fields."""

    def __init__(self, source: str, recipe: CorpusRecipe) -> None:
        self._source, self._language = source, recipe.language
        self._text, self._label = recipe.text_field, recipe.label_field
        self.names = [name for name in (recipe.text_field, recipe.label_field, "title") if name]

    def document(self, row: Mapping[str, Any], where: Path | str) -> Document:
        """Raises CorpusError where the row lacks a field, naming those it has."""
        text = self._get(row, self._text, "text_field", where)
        label = self._get(row, self._label, "label_field", where) if self._label else None
        if not isinstance(text, str | None):
            raise CorpusError(
                f"{where}: the field {self._text!r} holds a {type(text).__name__}, expected text; set corpus.text_field"
            )
        title = row.get("title")
        return Document(
            text=text or "",
            title=title if isinstance(title, str) else "",
            label="" if label is None else str(label),
            source=self._source,
            language=self._language,
        )

    def _get(self, row: Mapping[str, Any], name: str, key: str, where: Path | str) -> Any:
        if name not in row:
            raise CorpusError(f"{where}: no field {name!r}; set corpus.{key} to one of: {', '.join(map(str, row))}")
        return row[name]
