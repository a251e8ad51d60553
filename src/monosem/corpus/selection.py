"""Which documents of the sources are read, in batches that fill a shard, from any place on.

`max_documents` takes a random subset of sources whose size is known, order kept, and the first ones of a stream, whose
end nobody knows.
"""

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np

from monosem.corpus.documents import Document
from monosem.corpus.sources import Source


class Place(NamedTuple):
    """Of a document."""

    source: int
    """Number of its source in the recipe."""
    document: int
    """Its number in that source."""


class Choice(NamedTuple):
    """Which documents are wanted."""

    total: int
    """How many; 0: not known."""
    chosen: list[set[int]] | None
    """For each source, the documents wanted. None: all."""


class Batch(NamedTuple):
    """Consecutive documents for one shard."""

    documents: list[Document]
    place: Place
    """Of the document after the last."""
    full: bool
    """There may be more."""


def choose(sources: Sequence[Source], max_documents: int | None, seed: int) -> Choice:
    """Draw at most `max_documents` over all sources together."""
    counts = [source.count() for source in sources]
    known = [count for count in counts if count is not None]
    total = sum(known)
    if len(known) < len(counts):
        return Choice(max_documents or 0, None)
    if max_documents is None or max_documents >= total:
        return Choice(total, None)
    drawn = np.random.default_rng(seed).choice(total, max_documents, replace=False)
    starts = np.cumsum([0, *known])
    chosen = [set((drawn[(drawn >= a) & (drawn < b)] - a).tolist()) for a, b in pairwise(starts)]
    return Choice(max_documents, chosen)


def batches(sources: Sequence[Source], choice: Choice, place: Place, done: int, characters: int) -> Iterator[Batch]:
    """The wanted documents from `place` on, until each batch holds `characters`.

    Args:
        done: wanted documents before `place`.
    """
    wanted = _walk(sources, choice, place)
    if choice.total:
        wanted = islice(wanted, choice.total - done)
    documents: list[Document] = []
    size = 0
    for place, document in wanted:
        documents.append(document)
        size += len(document.text)
        if size >= characters:
            yield Batch(documents, place, full=True)
            documents, size = [], 0
    if documents:
        yield Batch(documents, place, full=False)


def _walk(sources: Sequence[Source], choice: Choice, start: Place) -> Iterator[tuple[Place, Document]]:
    """Each wanted document with the place of the one after it."""
    for number, source in enumerate(sources[start.source :], start.source):
        first = start.document if number == start.source else 0
        chosen = choice.chosen[number] if choice.chosen else None
        for index, document in enumerate(source.documents(first), first):
            if chosen is None or index in chosen:
                yield Place(number, index + 1), document
