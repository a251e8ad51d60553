"""The stored activations of a run as a source of training: what `prepare` made, of one hook point or two."""

from collections.abc import Iterable

import torch

from monosem.run import Run
from monosem.store import loader, median, prepare
from monosem.store.loader import Cursor
from monosem.store.pairs import Sample, open_pairs
from monosem.store.stats import Statistics
from monosem.train.settings import order_seed_of
from monosem.train.source import Feed, Known

SAMPLE_BATCH = 8192


class Stored:
    """The batches that `prepare` made.

    Raises:
        StoreError: they are not complete, or those of a transcoder's two hook points do not pair.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._train = run, run.recipe.train
        self._folder = run.folder("batches", run.recipe.hook_point)
        apart = run.recipe.output_hook_point != run.recipe.hook_point
        self._target = run.folder("batches", run.recipe.output_hook_point) if apart else None
        self.rows = sum(place.shard.rows for place in open_pairs(self._folder, "train-", self._target))

    def known(self) -> Known:
        return self._known(self._run.recipe.hook_point)

    def target(self) -> Known | None:
        return None if self._target is None else self._known(self._run.recipe.output_hook_point)

    def feed(self, cursor: Cursor, only: range | None = None) -> Feed:
        train, seed = self._train, order_seed_of(self._run.recipe)
        return loader.Loader(self._folder, train.batch, seed, train.workers, cursor, self._target, only)

    def held_out(self) -> Iterable[Sample]:
        return loader.validation(self._folder, self._train.batch, self._train.validation_tokens, self._target)

    def sample(self, rows: int) -> Sample:
        parts = loader.training(self._folder, SAMPLE_BATCH, rows, self._target)
        return Sample(*(torch.cat([part.float() for part in column]) for column in zip(*parts, strict=True)))

    def _known(self, hook_point: str) -> Known:
        folder = self._run.folder("batches", hook_point)
        counts = prepare.open_stage(self._run, hook_point).manifest.counts
        return Known(Statistics.load(folder), counts["norm_threshold"], median.load(folder))
