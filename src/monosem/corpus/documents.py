"""A document, and how the rows of a file or dataset become documents."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from monosem.errors import CorpusError
from monosem.recipe import CorpusRecipe


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


class Fields:
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
