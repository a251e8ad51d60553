"""One `batches` folder made of one `activations` folder, over the workers of all ranks.

Flow: pass 1 sorts the rows of each source shard into random buckets, one file in `scatter/` a source shard; pass 2
gathers a bucket from all of them, shuffles it in memory and writes it as a final shard. A file depends on its number
and the seed alone, so that the result is the same whatever the workers and ranks, which take one when done with the
last, and an interrupted stage goes on with those that are missing.
"""

import contextlib
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from monosem.atomic import write_text
from monosem.errors import StoreError
from monosem.progress import note
from monosem.ranks import Ranks
from monosem.recipe import PrepareRecipe
from monosem.run import MANIFEST, Manifest, Stage
from monosem.store import disk, median
from monosem.store.scatter import gather, row_counts, scatter
from monosem.store.shards import CONSUMED, ShardFile, consumed, verify_here, where_of
from monosem.store.split import is_validation
from monosem.store.stats import FILE as STATISTICS
from monosem.store.stats import Statistics, merge

SCATTER, GATHER = 1, 2  # keep the random numbers of the two passes apart
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


class Plan(NamedTuple):
    """How many final shards there are; a bucket's number is that of its shard in `names`."""

    train: int
    validation: int

    @classmethod
    def of(cls, source: Manifest, recipe: PrepareRecipe) -> "Plan":
        shards = sum(shard.bytes for shard in source.shards) / (recipe.shard_mb << 20)
        fraction = recipe.validation_fraction
        return cls(max(1, math.ceil(shards * (1 - fraction))), max(1, math.ceil(shards * fraction)))

    @property
    def names(self) -> list[str]:
        parts = (("train", self.train), ("validation", self.validation))
        return [f"{part}-{number:05d}.safetensors" for part, count in parts for number in range(count)]


class Preparation:
    """One `batches` folder made of one `activations` folder."""

    def __init__(
        self,
        source: Stage,
        stage: Stage,
        recipe: PrepareRecipe,
        seed: int,
        plan: Plan | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Open both folders.

        Args:
            plan: None: what the source's size asks for.
        """
        self.source, self.stage, self.recipe, self.seed = source, stage, recipe, seed
        self.plan = plan or Plan.of(source.manifest, recipe)
        self.ranks = ranks or Ranks()
        self.folder = stage.path / "scatter"
        self.scattered = [self.folder / shard.name for shard in source.shards]

    def make(self) -> None:
        finished = {shard.name for shard in self.stage.begin(self.ranks)}
        with _single_threaded_torch():
            if not finished.issuperset([*self.plan.names, STATISTICS]):
                self._first_pass()
                counts = self.ranks.once("statistics", lambda: self._statistics(finished))
                self._second_pass(finished, counts)
            self.stage.collect()
            if self.recipe.geometric_median and median.FILE not in finished:
                self._median()
        if self.ranks.first:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._finish()

    def _first_pass(self) -> None:
        missing = self.ranks.once("the first pass", self._begin)

        def scatter_shard(number: int) -> int:
            shard = self.source.shards[number]
            where = where_of(self.source.path, shard)
            verify_here(where, shard)
            file = ShardFile(where)
            scatter(file, self._buckets(file, number), self.plan.train, sum(self.plan), self.scattered[number])
            if self.recipe.consume:
                self._free(number)
            return shard.rows

        self._each(scatter_shard, missing, "prepare 1/2", [shard.rows for shard in self.source.shards])
        self.ranks.barrier("the end of the first pass")

    def _begin(self) -> list[int]:
        """What rank 0 does before any shard is sorted; returns the numbers of those that are to be."""
        self.folder.mkdir(exist_ok=True)
        for leftover in self.folder.glob("*.tmp"):
            leftover.unlink()
        missing = [number for number, file in enumerate(self.scattered) if not file.exists()]
        self._check_source(missing)
        self._require_room(missing)
        if self.recipe.consume:
            self._mark_consumed()
            # an interrupted process may have sorted a shard and not deleted it
            for number in set(range(len(self.scattered))) - set(missing):
                self._free(number)
        return missing

    def _statistics(self, finished: set[str]) -> NDArray[np.int64]:
        """What rank 0 does between the passes; returns `[buckets]`, the rows of each."""
        counts = row_counts(self.scattered)
        if STATISTICS not in finished:
            self._check_split(counts)
            merge(Statistics.read(ShardFile(file)) for file in self.scattered).save(self.stage.path)
            self.stage.add_shard(STATISTICS, 0)
        return counts

    def _second_pass(self, finished: set[str], counts: NDArray[np.int64]) -> None:
        names = self.plan.names
        missing = [number for number, name in enumerate(names) if name not in finished]

        def gather_shard(number: int) -> int:
            random = np.random.default_rng([self.seed, GATHER, number])
            rows = int(counts[number])
            gather(self.scattered, number, rows, random, self.stage.path / names[number])
            self.stage.add_shard(names[number], rows)
            return rows

        self._each(gather_shard, missing, "prepare 2/2", counts.tolist())

    def _median(self) -> None:
        """Of the training rows, a round over all shards at a time."""
        rows = {shard.name: shard.rows for shard in self.stage.shards}
        parts = median.groups([name for name in self.plan.names[: self.plan.train] if rows[name]])

        def around(point: NDArray[np.float64]) -> list[median.Sums]:
            own: dict[int, median.Sums] = {}

            def sum_group(number: int) -> int:
                own[number] = median.sums_of([self.stage.path / name for name in parts[number]], point)
                return sum(rows[name] for name in parts[number])

            sizes = [sum(rows[name] for name in part) for part in parts]
            self._each(sum_group, range(len(parts)), "geometric median", sizes)
            of_all = {
                number: sums for part in self.ranks.gather("geometric median", own) for number, sums in part.items()
            }
            return [of_all[number] for number in range(len(parts))]

        found = median.iterate(Statistics.load(self.stage.path).mean, around)
        if self.ranks.first:
            median.save(self.stage.path, found)
            self.stage.add_shard(median.FILE, 0)

    def _buckets(self, file: ShardFile, number: int) -> NDArray[np.int64]:
        """`[rows]`, a random bucket for each row of a source shard: of those for training or those for validation."""
        held_out = is_validation(file.read("sentence").numpy(), self.recipe.validation_fraction, self.seed)
        random = np.random.default_rng([self.seed, SCATTER, number])
        train = random.integers(0, self.plan.train, len(held_out))
        validation = random.integers(self.plan.train, sum(self.plan), len(held_out))
        return np.where(held_out, validation, train)

    def _check_source(self, missing: Sequence[int]) -> None:
        """Shards that are still to be sorted are there, and those that shall be deleted can be."""
        own = [self.source.path / shard.name for shard in self.source.shards]
        places = [where_of(self.source.path, shard) for shard in self.source.shards]
        if self.recipe.consume and places != own:
            raise StoreError(
                f"{self.source.path}: prepare.consume cannot delete shards in archives or elsewhere; set it to false"
            )
        gone = [number for number in missing if places[number] == own[number] and not own[number].exists()]
        if gone and CONSUMED in self.source.manifest.counts:
            raise consumed(self.source.path, self.source.manifest)

    def _require_room(self, missing: Sequence[int]) -> None:
        """A second copy of the rows until the end of the second pass, and the final one.

        With `consume` the second copy takes the place of the first, but for the shards that are being sorted.
        """
        sizes = [shard.bytes for shard in self.source.shards]
        final = sum(sizes) - sum(shard.bytes for shard in self.stage.shards)
        if self.recipe.consume:
            at_once = self._workers() * self.ranks.world
            sorting = sum(sorted((sizes[number] for number in missing), reverse=True)[:at_once])
            deleted = disk.size_text(sum(sizes))
            needed = max(final, sorting)
            told = f"; {deleted} of activations are deleted (codes needs them captured again)"
        else:
            needed, told = final + sum(sizes[number] for number in missing), ""
        note(f"  prepare: needs at most {disk.size_text(needed)} more on the disk{told}")
        disk.require_free(self.stage.path, needed, "prepare")

    def _mark_consumed(self) -> None:
        """Say in the source's manifest that its shards are going, before the first does."""
        manifest = self.source.manifest
        manifest.counts[CONSUMED] = f"{self.stage.path.parent.name}/{self.stage.path.name}"
        write_text(self.source.path / MANIFEST, manifest.model_dump_json(indent=2) + "\n")

    def _free(self, number: int) -> None:
        (self.source.path / self.source.shards[number].name).unlink(missing_ok=True)

    def _check_split(self, rows: NDArray[np.int64]) -> None:
        for name, count in (("train", rows[: self.plan.train].sum()), ("validate", rows[self.plan.train :].sum())):
            if not count:
                raise StoreError(
                    f"{self.source.path}: prepare.validation_fraction = {self.recipe.validation_fraction} leaves no "
                    f"activation to {name} with; capture more sentences or choose another fraction"
                )

    def _finish(self) -> None:
        statistics = Statistics.load(self.stage.path)
        names = self.plan.names
        rows = {shard.name: shard.rows for shard in self.stage.shards}
        self.stage.finish(
            train=sum(rows[name] for name in names[: self.plan.train]),
            validation=sum(rows[name] for name in names[self.plan.train :]),
            d=len(statistics.mean),
            norm_threshold=self.source.manifest.counts["norm_threshold"],
            total_variance=statistics.total_variance,
            norm_quantiles={str(q): statistics.norm_quantile(q) for q in QUANTILES},
            model=self.source.manifest.counts.get("model"),
            origin={"recipe": self.source.manifest.recipe, "inputs": self.source.manifest.inputs},
        )

    def _each(self, work: Callable[[int], int], numbers: Sequence[int], what: str, rows: Sequence[int]) -> None:
        """Do `work` for each number, over the workers of all ranks; it returns the rows it handled.

        Args:
            rows: of every number, those that are done too.
        """
        done = sum(rows) - sum(rows[number] for number in numbers)
        claimed, failed = self.ranks.counter(what), threading.Event()
        with (
            self.ranks.progress(what, sum(rows), "activations", done) as advance,
            ThreadPoolExecutor(self._workers()) as pool,
        ):

            def take() -> None:
                for index in claimed.numbers(len(numbers)):
                    if failed.is_set():
                        return
                    try:
                        advance(work(numbers[index]))
                    except BaseException:
                        failed.set()
                        raise

            for future in [pool.submit(take) for _ in range(self._workers())]:
                future.result()

    def _workers(self) -> int:
        """As the recipe says, but no more buckets than half of the machine's memory holds for the ranks it has."""
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // self.ranks.local_world
        fitting = memory // 2 // (self.recipe.shard_mb << 20)
        cores = max(1, (os.cpu_count() or 1) // self.ranks.local_world)
        return max(1, min(self.recipe.workers or cores, fitting))


@contextlib.contextmanager
def _single_threaded_torch() -> Iterator[None]:
    """The workers are the parallelism: torch's own threads beside them would only get in each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
