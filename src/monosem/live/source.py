"""The language model as a source of training (`monosem.train.source.Source`).

Which sentences validate is decided as for stored activations; those that are held out are read once and kept. The first
window gives the statistics that an untrained SAE begins with.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from monosem import progress
from monosem.corpus.sentences import Sentences
from monosem.errors import RecipeError, StoreError
from monosem.finetune.reader import Place, Reader
from monosem.live.reading import Reading
from monosem.live.ring import Feed, Window
from monosem.lm.protocol import LanguageModel
from monosem.run import Run
from monosem.store import split
from monosem.store.loader import Cursor
from monosem.store.pairs import Sample
from monosem.store.stats import Statistics, merge
from monosem.train.settings import device_of, order_seed_of
from monosem.train.source import Known

HELD_OUT = 3  # keeps the random numbers of validation apart
HELD_OUT_SENTENCES = 256  # read at once
BEGINNING = Place(0, 0)


class Live:
    """Activations as the model computes them.

    Args:
        run: with its sentences.

    Raises:
        RecipeError: the ring is too small for a batch or for the longest sentences.
        StoreError: the split leaves no sentence to train or to validate with.
        ModelError: a hook point does not exist.
    """

    def __init__(self, run: Run, model: LanguageModel) -> None:
        self._recipe, train = run.recipe, run.recipe.train
        longest = run.recipe.corpus.max_tokens
        if train.buffer < max(2 * train.batch, 4 * longest):
            raise RecipeError(
                f"train.buffer = {train.buffer:,} is too small: give at least two batches (train.batch = "
                f"{train.batch:,}) and four of the longest sentences (corpus.max_tokens = {longest})"
            )
        sentences = Sentences(run.folder("sentences"))
        every = np.arange(len(sentences))
        validating = split.is_validation(every, run.recipe.prepare.validation_fraction, run.recipe.seed)
        self._training, self._validating = every[~validating], every[validating]
        if not len(self._training) or not len(self._validating):
            raise StoreError("the split leaves no sentence to train or to validate with; take more sentences")
        self._reading = Reading(run.recipe, model, sentences)
        self._reader = Reader(
            sentences, self._training, model.tokenizer, longest, train.buffer // 2 - longest, self._seed, shortest=1
        )
        self.rows = max(1, round(self._reading.rows_a_sentence() * len(self._training)))
        self._held_out: list[Sample] | None = None
        self._first: Sample | None = None
        width, kept = self._ring_bytes(), train.validation_tokens * self._row_bytes()
        progress.note(f"  live: {width / 1e6:,.0f} MB for the ring, {kept / 1e6:,.0f} MB for validation")

    def known(self) -> Known:
        return self._known(0)

    def target(self) -> Known | None:
        return self._known(1) if len(self._recipe.trained_on) > 1 else None

    def feed(self, cursor: Cursor, only: range | None = None) -> Feed:
        assert only is None, "a language model is read by one process (training.check)"
        train, device = self._recipe.train, device_of(self._recipe)
        ring = [
            torch.empty((train.buffer, one.d), dtype=self._reading.dtype, device=device) for one in self._calibrations()
        ]
        return Feed(ring, self._reading.rows, self._windows, train.batch, self._seed, cursor)

    def held_out(self) -> Iterable[Sample]:
        if self._held_out is None:
            order = np.random.default_rng([self._recipe.seed, HELD_OUT]).permutation(self._validating)
            parts = [order[start : start + HELD_OUT_SENTENCES] for start in range(0, len(order), HELD_OUT_SENTENCES)]
            rows = self._collected((self._reading.ids(part) for part in parts), self._recipe.train.validation_tokens)
            batch = self._recipe.train.batch
            self._held_out = [Sample(*pair) for pair in zip(*(part.split(batch) for part in rows), strict=True)]
        return self._held_out

    def sample(self, rows: int) -> Sample:
        """Of the first window, whose sentences are as good as random."""
        if self._first is None:
            window = next(self._windows(BEGINNING))
            self._first = self._collected([window.sentences], self._recipe.train.buffer)
        return Sample(self._first.x[:rows].float(), self._first.target[:rows].float())

    @property
    def _seed(self) -> int:
        return order_seed_of(self._recipe)

    def _calibrations(self):
        return [self._reading.calibrations[name] for name in self._recipe.trained_on]

    def _row_bytes(self) -> int:
        return sum(one.d for one in self._calibrations()) * self._reading.dtype.itemsize

    def _ring_bytes(self) -> int:
        return self._recipe.train.buffer * self._row_bytes()

    def _windows(self, place: Place) -> Iterator[Window]:
        for batch in self._reader.batches(place):
            yield Window(place, batch.sentences)
            place = batch.after

    def _known(self, number: int) -> Known:
        rows = self.sample(self._recipe.train.buffer)[number]
        statistics = merge([Statistics.of(part) for part in rows.split(8192)])
        return Known(statistics, self._calibrations()[number].norm_threshold)

    def _collected(self, sentences: Iterable[list[list[int]]], most: int) -> Sample:
        """The first `most` activations of sentences."""
        parts, count = [], 0
        for ids in sentences:
            for rows in self._reading.rows(ids):
                parts.append([part[: most - count].cpu() for part in rows])
                count += len(parts[-1][0])
            if count >= most:
                break
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        return Sample(columns[0], columns[-1])
