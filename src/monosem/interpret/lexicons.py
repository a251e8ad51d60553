"""Lexicons for the latents of a run, a few thousand latents at a time, over a bounded number of sentences.

Flow: an even sample of the corpus is read and tokenized once; the sentences of the next latents' examples are added to
it, and become one `TermIndex`. A run whose example sentences are few has one index for all its latents. Memory does not
grow with the number of latents.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from monosem.corpus.sentences import Sentences
from monosem.interpret import tables
from monosem.interpret.firing_tokens import Example
from monosem.interpret.lexical import Lexicon
from monosem.interpret.ngrams import TermIndex
from monosem.lm.source import open_tokenizer
from monosem.run import Run

CORPUS_SENTENCES = 100_000  # at most, that stand for the whole corpus
SHOWN_SENTENCES = 100_000  # example sentences up to which one index is made for all latents
LATENTS_AT_ONCE = 2048


class Batch(NamedTuple):
    """Some latents, and what their examples are compared with."""

    latents: NDArray[np.int64]
    lexicon: Lexicon
    examples: dict[int, list[Example]]
    """By latent: its examples by all the aggregations that were asked for, each sentence once."""
    sentence: NDArray[np.int64]
    """[S] number, in the corpus, of each sentence of the lexicon's index."""


class _Corpus(NamedTuple):
    """The sample of the corpus."""

    numbers: NDArray[np.int64]
    texts: list[str]
    spans: list[tuple[Sequence[int], Sequence[int]]]


def batches(run: Run, aggregations: Sequence[str]) -> Iterator[Batch]:
    """All latents of the finished stage `examples`, in order.

    Raises:
        RunError: the tables are missing or damaged.
    """
    folder = run.folder("examples")
    n = pq.read_metadata(folder / tables.LATENTS).num_rows
    together = pq.read_metadata(folder / tables.SENTENCES).num_rows <= SHOWN_SENTENCES
    corpus, lexicon, place = _corpus(run), None, np.zeros(0, np.int64)
    for start in range(0, n, LATENTS_AT_ONCE):
        latents = np.arange(start, min(start + LATENTS_AT_ONCE, n))
        rows = tables.read_sorted(folder / tables.EXAMPLES, "latent", latents)
        rows = rows.filter(pc.field("aggregation").isin(list(aggregations)))
        if lexicon is None or not together:
            shown = pq.read_table(folder / tables.SENTENCES) if together else _shown(run, rows)
            lexicon, place = _lexicon(run, corpus, shown)
        yield Batch(latents, lexicon, _examples(rows, place), place)


def _corpus(run: Run) -> _Corpus:
    source, tokenizer = Sentences(run.folder("sentences")), open_tokenizer(run.recipe.model)
    numbers = np.arange(0, len(source), max(1, -(-len(source) // CORPUS_SENTENCES)))
    texts = source.take(numbers, columns=["text"])["text"].to_pylist()
    most = run.recipe.corpus.max_tokens
    found = [tokenizer.spans(text) for text in texts]
    return _Corpus(numbers, texts, [(span.starts[:most], span.ends[:most]) for span in found])


def _shown(run: Run, rows: pa.Table) -> pa.Table:
    wanted = np.unique(rows["sentence"].to_numpy())
    return tables.read_sorted(run.folder("examples") / tables.SENTENCES, "sentence", wanted)


def _lexicon(run: Run, corpus: _Corpus, shown: pa.Table) -> tuple[Lexicon, NDArray[np.int64]]:
    """The lexicon of the corpus and of other sentences, and the number of each sentence in it."""
    others = shown.filter(pa.array(~np.isin(shown["sentence"].to_numpy(), corpus.numbers)))
    texts = corpus.texts + others["text"].to_pylist()
    spans = corpus.spans + list(zip(others["starts"].to_pylist(), others["ends"].to_pylist(), strict=True))
    sentence = np.concatenate([corpus.numbers, others["sentence"].to_numpy()])
    in_corpus = np.arange(len(sentence)) < len(corpus.numbers)
    return Lexicon(TermIndex.build(texts, spans), in_corpus, run.recipe.seed), sentence


def _examples(rows: pa.Table, sentence: NDArray[np.int64]) -> dict[int, list[Example]]:
    order = np.argsort(sentence)
    places = order[np.searchsorted(sentence[order], rows["sentence"].to_numpy())]
    found: dict[int, dict[int, Example]] = {}
    columns = (rows[name].to_pylist() for name in ("latent", "positions", "values"))
    for place, latent, positions, values in zip(places.tolist(), *columns, strict=True):
        found.setdefault(latent, {}).setdefault(place, Example(place, positions, values))
    return {latent: list(examples.values()) for latent, examples in found.items()}
