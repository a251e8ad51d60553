"""How much there is to do: sentences, tokens and stored activations of a recipe.

A corpus at hand is read: wholly where it is small, else a sample of its documents is split and tokenized. Of a dataset
on the hub nothing is fetched; the recipe's `max_sentences` or a table of known datasets says how large it is.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal, NamedTuple

from monosem.corpus import selection, sources
from monosem.corpus.documents import Document
from monosem.corpus.selection import Place
from monosem.corpus.sources import Source
from monosem.corpus.split import Text, split
from monosem.corpus.tokens import encode
from monosem.errors import CorpusError, RecipeError
from monosem.lm.source import open_tokenizer
from monosem.recipe import Recipe

Basis = Literal["read", "sampled", "tabulated"]
WHOLE = 3_000_000
"""Characters up to which a corpus is read to the last sentence, in a few seconds."""
WALKED = 200_000_000
"""Characters that are walked over at most to find out how long documents are."""
SINKS = 0.035
"""Share of activations whose norm is beyond 10 times the median: attention sinks, on the embedded model."""
TOKENS_A_SENTENCE = 27.3
"""English web text under Llama 3's tokenizer: 25 million sentences of OpenWebText (the reference system)."""
CHARACTERS_A_TOKEN = 4.3
SENTENCES = {"openwebtext": 340_000_000}
"""Of datasets that are known by name: 39.8 GB of text (dataset card), at the two averages above."""


class Workload(NamedTuple):
    """What the stages work on."""

    sentences: int
    tokens: int
    """That the model reads."""
    rows: int
    """Activations stored at each hook point."""
    characters: int
    basis: Basis


def measure(recipe: Recipe) -> Workload:
    """The recipe's workload.

    Raises:
        RecipeError: nothing says how large a source on the hub is.
        CorpusError: a local source cannot be read.
        AssetError: a source or the tokenizer cannot be had.
    """
    corpus = recipe.corpus
    if any(name.startswith("hf:") and "!/" not in name for name in corpus.sources):
        return _tabulated(recipe)
    opened = [sources.open_source(name, corpus) for name in corpus.sources]
    chosen = selection.choose(opened, corpus.max_documents, recipe.seed)
    found = list(_documents(opened, chosen))
    if not found:
        raise CorpusError(f"corpus.sources: no document in {', '.join(corpus.sources)}; name a source that holds text")
    walked = sum(len(document.text) for document in found)
    scale = max(1.0, chosen.total / len(found)) if chosen.total else 1.0
    part = found if walked <= WHOLE else found[:: -(-walked // WHOLE)]
    texts = [sentence for group in split([Text(one.text, one.language) for one in part]) for sentence in group]
    share = scale * walked / max(1, sum(len(document.text) for document in part))
    total = round(share * len(texts))
    if corpus.max_sentences is not None and corpus.max_sentences < total:
        share, total = share * corpus.max_sentences / total, corpus.max_sentences
    ids = encode(open_tokenizer(recipe.model), texts, corpus.max_tokens)
    tokens = round(share * sum(map(len, ids)))
    characters = round(share * sum(map(len, texts)))
    basis: Basis = "read" if len(part) == len(found) and scale == 1 else "sampled"
    return Workload(total, tokens, _kept(recipe, total, tokens), characters, basis)


def _documents(opened: Sequence[Source], chosen: selection.Choice) -> Iterator[Document]:
    """The wanted documents, as far as they are walked over."""
    for batch in islice(selection.batches(opened, chosen, Place(0, 0), 0, WALKED), 1):
        yield from batch.documents


def _tabulated(recipe: Recipe) -> Workload:
    corpus = recipe.corpus
    sentences = corpus.max_sentences
    if sentences is None:
        known = [count for name, count in SENTENCES.items() for source in corpus.sources if name in source.lower()]
        if len(known) < len(corpus.sources) or corpus.max_documents is not None:
            raise RecipeError(
                f"corpus.sources = {list(corpus.sources)}: how many sentences it holds is not known before it is read; "
                "set corpus.max_sentences"
            )
        sentences = sum(known)
    tokens = round(sentences * min(TOKENS_A_SENTENCE, corpus.max_tokens))
    return Workload(
        sentences, tokens, _kept(recipe, sentences, tokens), round(tokens * CHARACTERS_A_TOKEN), "tabulated"
    )


def _kept(recipe: Recipe, sentences: int, tokens: int) -> int:
    """Activations that are stored."""
    rows = tokens - sentences * recipe.capture.drop_first
    return round(rows * (1 - SINKS * (recipe.capture.max_norm_ratio > 0)))
