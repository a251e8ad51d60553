"""Documents into sentences by Punkt (Kiss and Strunk 2006), in this process or over all cores.

Sentences stand in the order of the text and hold all of it but the whitespace between them. Kept free of heavy imports:
every worker process begins by importing this module.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import punkt

PIECE_CHARACTERS = 500_000  # of text handed to a worker at once: ~0.1 s of work


class Text(NamedTuple):
    """The text of a document and the Punkt model that splits it."""

    text: str
    language: str


def languages() -> tuple[str, ...]:
    """Names of the Punkt models there are."""
    return punkt.available_languages()


def split(texts: Sequence[Text]) -> list[list[str]]:
    """The sentences of each text; none for a text of whitespace."""
    return [_tokenizer(language).tokenize(text) for text, language in texts]


class Splitter:
    """`split` over worker processes, which are started when first used and end with the `with` block."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Splitter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def split(self, texts: Sequence[Text], advance: Callable[[int], None], spread: bool = True) -> list[list[str]]:
        """As the function `split`; `advance` is called with the number of documents done.

        Args:
            spread: over worker processes; else in this one.
        """
        spread = spread and self._workers > 1
        if spread and self._pool is None:
            # spawned, not forked: this process may hold threads of torch and of progress bars
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, mp_context=context, initializer=_end_with_parent)
        pieces = _pieces(texts)
        sentences: list[list[str]] = []
        for done in self._pool.map(split, pieces) if spread and self._pool else map(split, pieces):
            sentences += done
            advance(len(done))
        return sentences


def _end_with_parent() -> None:
    """Let this worker end when its parent is killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _pieces(texts: Sequence[Text]) -> list[list[Text]]:
    """Runs of texts of about `PIECE_CHARACTERS` each."""
    pieces: list[list[Text]] = [[]]
    characters = 0
    for text in texts:
        if characters >= PIECE_CHARACTERS:
            pieces.append([])
            characters = 0
        pieces[-1].append(text)
        characters += len(text.text)
    return pieces


@lru_cache
def _tokenizer(language: str) -> punkt.PunktSentenceTokenizer:
    return punkt.tokenizer_for(language)
