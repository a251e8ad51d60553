"""Which latents a query finds: words in explanations and example sentences, ranges of figures, an order.

Words are compared as `monosem search` compares them: no case, no accents, from the beginning of a word. The folded
sentences and the pairs of latent and sentence are read once, on the first search for words, as flat columns: the
sentences themselves and 8 bytes a pair.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from monosem.app.page.folding import Folded
from monosem.app.page.kept import Kept
from monosem.app.page.latents import LatentFiles
from monosem.app.page.sorted_file import read_columns
from monosem.interpret import tables
from monosem.interpret.search import fold

ORDERS = {
    "best": "best match",
    "certainty": "most certain",
    "uncertain": "least certain",
    "score": "best score",
    "output": "largest output score",
    "dense": "fires most",
    "rare": "fires least",
    "latent": "by number",
}
Mask = NDArray[np.bool_]


class Query(NamedTuple):
    """What to look for. A latent without a figure passes no filter on that figure."""

    words: str = ""
    """All must be there; a number alone is the latent of that number."""
    order: str = "best"
    certainty: float = 0.0
    """At least; 0: any, none included."""
    density: tuple[float, float] = (0.0, 1.0)
    """Share of tokens, from and to."""
    score: float = 0.0
    """At least; 0: any, none included."""


class Found(NamedTuple):
    """The latents that a query finds, in its order."""

    latents: NDArray[np.int64]
    sentences: NDArray[np.int64]
    """[n] of each latent: example sentences that hold the words."""


class Searcher:
    """Searches one run."""

    def __init__(self, files: LatentFiles) -> None:
        self._files = files
        folder = files.folder / "examples"
        self._texts = Kept(folder / tables.SENTENCES, _folded)
        self._pairs = Kept(folder / tables.EXAMPLES, _pairs)
        self._lock = threading.Lock()
        self._read: _Examples | None = None

    def warm(self) -> None:
        """Read what the first search needs, so that it need not wait."""
        self._examples()
        if (said := self._files.explanations) is not None:
            said.certainty(0)
            _ = said.folded

    def find(self, query: Query, scores: NDArray[np.float64]) -> Found:
        """The latents that fit.

        Args:
            scores: [n] what `query.score` filters by; NaN where a latent has none.

        Raises:
            RunError: the run has no examples, or a file is damaged.
        """
        figures = self._files.figures()
        n = figures.n
        said = self._files.explanations
        certainty = np.full(n, np.nan) if said is None else said.certainty(n)
        low, high = query.density
        passes = (figures.density >= low) & (figures.density <= high)
        if query.certainty > 0:
            passes &= certainty >= query.certainty  # NaN passes nothing
        if query.score > 0:
            passes &= scores >= query.score
        inside, counts, total = np.zeros(n, dtype=bool), np.zeros(n, dtype=np.int64), np.ones(n, dtype=np.int64)
        wanted = fold(query.words).split()
        if wanted:
            inside, counts, total = self._words(wanted, n)
            held = inside | (counts > 0)
            if len(wanted) == 1 and wanted[0].isdecimal() and int(wanted[0]) < n:
                held[int(wanted[0])] = inside[int(wanted[0])] = True
            passes &= held
        else:
            passes &= figures.fire_count > 0  # the dead say nothing; a search by number finds them
        keys: dict[str, Callable[[], NDArray]] = {
            "best": lambda: (
                -(1 + np.nan_to_num(certainty)) * inside - counts / np.maximum(total, 1)
                if wanted
                else -np.nan_to_num(certainty, nan=-1)
            ),
            "certainty": lambda: -np.nan_to_num(certainty, nan=-1),
            "uncertain": lambda: np.nan_to_num(certainty, nan=2),
            "score": lambda: -np.nan_to_num(scores, nan=-1),
            "output": lambda: -np.nan_to_num(self._files.output_scores(), nan=-1),
            "dense": lambda: -figures.density,
            "rare": lambda: figures.density,
            "latent": lambda: np.arange(n),
        }
        latents = np.flatnonzero(passes)
        order = np.argsort(keys[query.order]()[latents], kind="stable")
        return Found(latents[order], counts)

    def _words(self, wanted: list[str], n: int) -> tuple[Mask, NDArray[np.int64], NDArray[np.int64]]:
        """[n] whether the explanation holds the words, how many sentences do, and of how many."""
        inside = np.zeros(n, dtype=bool)
        said = self._files.explanations
        if said is not None:
            latents, texts = said.folded
            held = latents[texts.holding(wanted)]
            inside[held[held < n]] = True
        for latent, note in self._files.annotations.items():
            if note.explanation and latent < n:  # what people say stands in the place of what machines said
                inside[latent] = Folded(pa.chunked_array([[note.explanation]])).holding(wanted)[0]
        examples = self._examples()
        if examples is None:
            return inside, np.zeros(n, dtype=np.int64), np.ones(n, dtype=np.int64)
        held = np.append(examples.texts.holding(wanted), False)
        known = examples.latents[held[examples.places]]
        return inside, np.bincount(known, minlength=n)[:n], examples.total(n)

    def _examples(self) -> "_Examples | None":
        """The sentences and who fires in them; read once, and anew when a file has changed."""
        texts, pairs = self._texts.get(), self._pairs.get()
        if texts is None or pairs is None:
            return None
        with self._lock:
            if self._read is None or self._read.texts is not texts.folded or self._read.latents is not pairs.latents:
                places = np.searchsorted(texts.numbers, pairs.sentences).astype(np.int32)
                self._read = _Examples(texts.folded, pairs.latents, places)
            return self._read


class _Texts(NamedTuple):
    """The sentences, folded."""

    numbers: NDArray[np.int64]
    folded: Folded


class _Pairs(NamedTuple):
    """Which sentences are examples of which latent; none twice."""

    latents: NDArray[np.int32]
    sentences: NDArray[np.int64]


class _Examples(NamedTuple):
    """Both together."""

    texts: Folded
    latents: NDArray[np.int32]
    places: NDArray[np.int32]
    """Of each pair's sentence among the texts; their number for one that is not there."""

    def total(self, n: int) -> NDArray[np.int64]:
        """[n] example sentences of each latent."""
        return np.bincount(self.latents, minlength=n)[:n]


def _folded(path: Path) -> _Texts:
    table = read_columns(path, ["sentence", "text"])
    return _Texts(table["sentence"].to_numpy(), Folded(table["text"]))


def _pairs(path: Path) -> _Pairs:
    """Sorted and without repeats, a million rows at a time: the file is sorted by latent."""
    latents: list[NDArray[np.int32]] = []
    sentences: list[NDArray[np.int64]] = []
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1 << 20, columns=["latent", "sentence"]):
            latents.append(batch["latent"].to_numpy())
            sentences.append(batch["sentence"].to_numpy())
    latent = np.concatenate(latents or [np.empty(0, np.int32)])
    sentence = np.concatenate(sentences or [np.empty(0, np.int64)])
    size = int(sentence.max(initial=0)) + 1
    keys = latent.astype(np.int64) * size
    keys += sentence
    keys.sort()
    kept = keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys
    return _Pairs((kept // size).astype(np.int32), kept % size)
