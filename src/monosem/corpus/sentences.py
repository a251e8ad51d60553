"""The stage `sentences`: the recipe's documents, in order, as sentences in Parquet shards.

Flow: documents are taken from the sources until they fill a shard, split over all cores, and written; a shard remembers
the place of the next document, so that an interrupted stage goes on there. All text and its order are kept, but for the
whitespace between sentences. Knows nothing of tokens.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from monosem import assets
from monosem.atomic import atomic_path, sha256
from monosem.corpus import selection, sources
from monosem.corpus.selection import Batch, Place
from monosem.corpus.split import Splitter, Text, languages
from monosem.errors import CorpusError
from monosem.progress import note, progress
from monosem.recipe import CorpusRecipe
from monosem.run import Run, Shard, Stage, read_manifest

SHARD_CHARACTERS = 16_000_000  # of text in one shard
OPEN_SHARDS = 4  # tables that a reader keeps in memory
SCHEMA = pa.schema(
    {
        "sentence": pa.int64(),
        "document": pa.int64(),
        "index": pa.int32(),
        "title": pa.string(),
        "text": pa.string(),
        "label": pa.string(),
        "source": pa.string(),
        "language": pa.string(),
    }
)


def open_stage(run: Run) -> Stage:
    """The stage's folder; writes nothing.

    Raises:
        RunError: its files were made with another recipe.
        AssetError: a source is unknown or missing.
    """
    recipe = run.recipe.corpus
    part = recipe.fingerprint_part()
    part.pop("max_tokens")  # cuts what the model reads, not what is stored
    if recipe.max_documents is not None:
        part["seed"] = run.recipe.seed
    return run.stage(run.folder("sentences"), part, {name: sources.fingerprint(name) for name in recipe.sources})


def make(run: Run) -> Stage:
    """Split the documents into sentences.

    Raises:
        AssetError: a source cannot be had.
        CorpusError: a document lacks its text field, or no document holds a sentence.
    """
    stage = open_stage(run)
    if stage.complete:
        return stage
    recipe = run.recipe.corpus
    _check_language(recipe)
    opened = [sources.open_source(name, recipe) for name in recipe.sources]
    done = _Done.after(stage.begin())
    assets.record(run.path, [source.asset for source in opened])
    chosen = selection.choose(opened, recipe.max_documents, run.recipe.seed)
    batches = selection.batches(opened, chosen, done.place, done.documents, SHARD_CHARACTERS)
    workers = recipe.workers or os.cpu_count() or 1
    most = recipe.max_sentences
    with Splitter(workers) as splitter, progress("sentences", chosen.total, "documents", done.documents) as advance:
        for batch in batches:
            if most is not None and done.sentences >= most:
                break
            texts = [Text(document.text, document.language) for document in batch.documents]
            # a corpus that ends within one shard is split sooner than worker processes start
            spread = batch.full or bool(stage.shards)
            split = splitter.split(texts, advance, spread)
            done = _write(stage, batch, split if most is None else _cut(split, most - done.sentences), done)
    return _finish(stage, done, recipe)


class _Done(NamedTuple):
    """What finished shards hold."""

    documents: int
    sentences: int
    empty: int
    """Documents without a sentence."""
    place: Place
    """Of the next document."""

    @classmethod
    def after(cls, shards: Sequence[Shard]) -> "_Done":
        return cls(
            documents=sum(shard.info["documents"] for shard in shards),
            sentences=sum(shard.rows for shard in shards),
            empty=sum(shard.info["empty"] for shard in shards),
            place=Place(*shards[-1].info["place"]) if shards else Place(0, 0),
        )


def _cut(split: Sequence[Sequence[str]], most: int) -> list[Sequence[str]]:
    """The first documents, up to the one that makes `most` sentences full, whose other sentences are left out."""
    kept: list[Sequence[str]] = []
    for sentences in split:
        if most <= 0:
            break
        kept.append(sentences[:most])
        most -= len(sentences)
    return kept


def _write(stage: Stage, batch: Batch, split: Sequence[Sequence[str]], done: _Done) -> _Done:
    """One more shard, of the documents that `split` holds the sentences of; returns what is done with it."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for number, (document, sentences) in enumerate(zip(batch.documents, split, strict=False), done.documents):
        columns["document"] += [number] * len(sentences)
        columns["index"] += range(len(sentences))
        columns["text"] += sentences
        for name in ("title", "label", "source", "language"):
            columns[name] += [getattr(document, name)] * len(sentences)
    rows = len(columns["text"])
    columns["sentence"] += range(done.sentences, done.sentences + rows)
    name = f"sentences-{len(stage.shards):05d}.parquet"
    with atomic_path(stage.path / name) as temporary:
        pq.write_table(pa.table(columns, schema=SCHEMA), temporary, compression="zstd")
    empty = sum(not sentences for sentences in split)
    stage.add_shard(name, rows, documents=len(split), empty=empty, place=list(batch.place))
    return _Done.after(stage.shards)


def _finish(stage: Stage, done: _Done, recipe: CorpusRecipe) -> Stage:
    if done.documents == 0:
        raise CorpusError(f"corpus.sources: no document in {', '.join(recipe.sources)}; name a source that holds text")
    if done.sentences == 0:
        raise CorpusError(
            f"corpus.sources: no sentence in any of {done.documents:,} documents of {', '.join(recipe.sources)}; "
            f"check corpus.text_field = {recipe.text_field!r}"
        )
    if done.empty:
        note(f"  sentences: {done.empty:,} of {done.documents:,} documents hold no sentence")
    stage.finish(documents=done.documents, sentences=done.sentences, empty_documents=done.empty)
    return stage


def _check_language(recipe: CorpusRecipe) -> None:
    if recipe.language not in languages():
        raise CorpusError(f"corpus.language = {recipe.language!r}: expected one of {', '.join(languages())}")


class Sentences:
    """The sentences of a finished stage, by their numbers from 0; shards are read when needed."""

    def __init__(self, folder: Path) -> None:
        """Open a stage folder.

        Raises:
            CorpusError: there are no finished sentences in it.
        """
        manifest = read_manifest(folder)
        if manifest is None or not manifest.complete:
            raise CorpusError(f"{folder}: no finished sentences; make them with: monosem sentences RECIPE")
        self.folder, self.manifest = folder, manifest
        self._starts = np.cumsum([0] + [shard.rows for shard in manifest.shards])
        self._table = lru_cache(OPEN_SHARDS)(self._read)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def texts(self, start: int, stop: int) -> list[str]:
        """The texts of the sentences from `start` to before `stop`."""
        return self.take(np.arange(start, min(stop, len(self))), columns=["text"])["text"].to_pylist()

    def take(self, indices: ArrayLike, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of the sentences `indices`, in the order given.

        Raises:
            CorpusError: a shard is damaged or missing.
            IndexError: there is no such sentence.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"sentences {wanted.min()} to {wanted.max()} of {len(self)}")
        shard = np.searchsorted(self._starts, wanted, side="right") - 1
        order = np.argsort(shard, kind="stable")
        names = list(columns or SCHEMA.names)
        parts = [SCHEMA.empty_table().select(names)]
        for number in np.unique(shard):
            rows = wanted[order][shard[order] == number] - self._starts[number]
            parts.append(self._table(int(number)).select(names).take(rows))
        return pa.concat_tables(parts).take(np.argsort(order))

    def _read(self, number: int) -> pa.Table:
        shard = self.manifest.shards[number]
        file = self.folder / shard.name
        if not file.exists():
            raise CorpusError(f"{file}: missing; make the sentences again with --redo sentences")
        if sha256(file) != shard.sha256:
            raise CorpusError(f"{file}: damaged, its sha256 is not the manifest's; make it again with --redo sentences")
        return pq.read_table(file)
