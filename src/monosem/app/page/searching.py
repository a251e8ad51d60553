"""Which latents a query finds: words in explanations and example sentences, ranges of figures, an order.

Words are compared as `monosem search` compares them: no case, no accents, from the beginning of a word. The folded
sentences and the pairs of latent and sentence are read once, on the first search for words, as flat Arrow and numpy
columns: some 100 bytes a sentence and 8 a pair.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from monosem.app.page.kept import Kept
from monosem.app.page.latents import LatentFiles
from monosem.interpret import tables
from monosem.interpret.cards import fold

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

    def warm(self) -> None:
        """Read what the first search needs, so that it need not wait."""
        with self._lock:
            self._texts.get(), self._pairs.get()
            if explanations := self._files.explanations:
                explanations.certainty(0)

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
        notes = {latent: note.explanation for latent, note in self._files.annotations.items() if note.explanation}
        said = self._files.explanations
        for latent, text in {**(said.texts if said else {}), **notes}.items():
            if latent < n:
                folded = f" {fold(text)}"
                inside[latent] = all(f" {word}" in folded for word in wanted)
        texts, pairs = self._texts.get(), self._pairs.get()
        if texts is None or pairs is None:
            return inside, np.zeros(n, dtype=np.int64), np.ones(n, dtype=np.int64)
        held = np.ones(len(texts.numbers), dtype=bool)
        for word in wanted:
            held &= pc.match_substring(texts.folded, f" {word}").to_numpy(zero_copy_only=False)
        place = np.searchsorted(texts.numbers, pairs.sentences)
        known = np.append(held, False)[place]
        return inside, np.bincount(pairs.latents[known], minlength=n), np.bincount(pairs.latents, minlength=n)


class _Texts(NamedTuple):
    """The sentences, folded."""

    numbers: NDArray[np.int64]
    folded: pa.ChunkedArray


class _Pairs(NamedTuple):
    """Which sentences are examples of which latent; none twice."""

    latents: NDArray[np.int32]
    sentences: NDArray[np.int64]


def _folded(path: Path) -> _Texts:
    """As `fold` does, over a whole column: lower case, no accents, a space for what is no letter or digit."""
    table = pq.read_table(path, columns=["sentence", "text"])
    folded = pc.utf8_lower(table["text"])
    for letter, same in (("ß", "ss"), ("ς", "σ")):  # where folding case is more than writing small
        folded = pc.replace_substring(folded, letter, same)
    folded = pc.utf8_normalize(folded, form="NFKD")
    folded = pc.replace_substring_regex(folded, r"\p{M}", "")
    folded = pc.replace_substring_regex(folded, r"[^\p{L}\p{N}]+", " ")
    folded = pc.binary_join_element_wise("", folded, " ")  # every word begins behind a space
    return _Texts(table["sentence"].to_numpy(), folded)


def _pairs(path: Path) -> _Pairs:
    with pq.ParquetFile(path) as file:
        parts = []
        for batch in file.iter_batches(1 << 20, columns=["latent", "sentence"]):
            latent, sentence = batch["latent"].to_numpy().astype(np.int64), batch["sentence"].to_numpy()
            parts.append((latent, sentence))
    latents = np.concatenate([part[0] for part in parts] or [np.empty(0, np.int64)])
    sentences = np.concatenate([part[1] for part in parts] or [np.empty(0, np.int64)])
    size = int(sentences.max(initial=0)) + 1
    keys = np.unique(latents * size + sentences)
    return _Pairs((keys // size).astype(np.int32), keys % size)
