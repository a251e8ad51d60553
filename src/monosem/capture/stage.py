"""The stage itself: what is missing, who takes it, and what the manifest says in the end.

Rank 0 measures norms and the int8 centre, all ranks use them. A rank takes a unit when it is done with the one before:
with a fixed partition the slowest machine would decide; so none is idle for longer than a unit takes.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monosem import assets
from monosem.capture.calibration import LENGTH_SENTENCES, NORM_SENTENCES, Calibration, stored_bytes
from monosem.capture.reading import Captured, read
from monosem.capture.units import Unit, units
from monosem.capture.writing import Drops, Writer, drops, write_rows
from monosem.corpus import tokens
from monosem.corpus.sentences import Sentences
from monosem.corpus.sentences import open_stage as open_sentences
from monosem.errors import StoreError
from monosem.lm.packed import Packed
from monosem.lm.protocol import LanguageModel
from monosem.lm.source import open_model
from monosem.progress import note
from monosem.run import Run, Stage
from monosem.store import disk, remote
from monosem.store.activations import open_stage
from monosem.store.encoding import CENTRE_NORM_RATIO, row_bytes

MAX_NONFINITE = 1e-3  # share of a unit's activations that may be NaN or infinite
WRITERS = 2  # threads that write
UNITS_AHEAD = 2  # units, beside the one that is read, that wait or are being written
SUMMED = ("tokens", *Drops._fields, "dropped_elsewhere")


class Spent(NamedTuple):
    """What one rank did."""

    tokens: int
    seconds: float
    waited: float
    """Seconds of them for the disk."""


def make(run: Run) -> Stage:
    """Capture every hook point that is not complete, all in one pass, or take what was captured elsewhere.

    Raises:
        RunError: the sentences have not been made, or a rank has ended.
        ModelError: a hook point does not exist.
        StoreError: the disk is too small, or too many activations are not finite.
    """
    # the SAE's hook point is finished last: where it is complete, all are
    names = sorted(run.recipe.capture.hook_points, key=lambda name: name == run.recipe.hook_point)
    stages = {name: stage for name in names if not (stage := open_stage(run, name)).complete}
    if stages and run.recipe.capture.source is not None:
        run.ranks.once("capture.source", lambda: _adopt(stages, f"{run.recipe.capture.source}"))
    elif stages:
        open_sentences(run).require()
        run.ranks.once("the model's files", lambda: _record(run))
        recipe = run.recipe.model.model_copy(update={"device": run.ranks.device(run.recipe.model.device)})
        _Capture(run, open_model(recipe), stages).make()
    return open_stage(run, run.recipe.hook_point)


def _adopt(stages: Mapping[str, Stage], source: str) -> None:
    for name, stage in stages.items():
        remote.adopt(stage, f"{source}/{name}")


def _record(run: Run) -> None:
    assets.record(run.path, [assets.resolve(run.recipe.model.source)])


class _Capture:
    """One pass over the sentences for the hook points that are not complete."""

    def __init__(self, run: Run, model: LanguageModel, stages: Mapping[str, Stage]) -> None:
        self.recipe, self.max_tokens, self.ranks = run.recipe.capture, run.recipe.corpus.max_tokens, run.ranks
        self.model, self.source, self.stages = model, run.recipe.model.source, stages
        self.dtype: torch.dtype = getattr(torch, self.recipe.dtype)
        self.sentences = Sentences(run.folder("sentences"))
        self.finished = {name: {shard.name for shard in stage.begin(self.ranks)} for name, stage in stages.items()}
        # what one of paired hook points leaves out has to be known of all of them, also where a shard is there already
        self.read = {
            name: stages.get(name) or open_stage(run, name)
            for name in run.recipe.capture.hook_points
            if self.recipe.paired or name in stages
        }
        self.calibrations = self.ranks.once("calibration", self._calibrations)
        self.formats = {name: calibration.format(self.dtype) for name, calibration in self.calibrations.items()}

    def make(self) -> None:
        size = next(iter(self.calibrations.values())).sentences_per_unit
        todo = [unit for unit in units(len(self.sentences), size) if self._lacking(unit)]
        self.ranks.once("room for the shards", lambda: self._require_room(todo))
        spent = self.ranks.gather("the end of capture", self._capture(todo))
        seconds = max(part.seconds for part in spent)
        waited = max(part.waited / part.seconds for part in spent)
        rate = sum(part.tokens for part in spent) / seconds
        over = f" over {self.ranks.world} ranks" * (self.ranks.world > 1)
        note(f"  capture: {rate:,.0f} tokens/s{over}; {100 * waited:.1f} % of the time for the disk")
        for name in self.stages:
            self._finish(name)

    def _capture(self, todo: Sequence[Unit]) -> Spent:
        """Take units, read and hand them to the writers, until none is left that no rank has taken."""
        first, calibration = next(iter(self.stages.values())), next(iter(self.calibrations.values()))
        done = sum(shard.info["tokens"] for shard in first.shards)
        total = round(calibration.tokens_per_sentence * len(self.sentences))
        claimed = self.ranks.counter("units")
        started, own = time.monotonic(), 0
        bar, room = self.ranks.progress("capture", total, "tokens", done), UNITS_AHEAD * len(self.stages)
        with bar as advance, Writer(WRITERS, room) as writer:
            for number in claimed.numbers(len(todo)):
                unit = todo[number]
                ids = self._ids(np.arange(unit.start, unit.stop))
                captured = read(self.model, ids, self._needed(unit), self.formats, self.recipe.batch_tokens, advance)
                self._hand_over(writer, unit, ids, captured)
                del captured  # its memory belongs to the writer alone
                own += sum(map(len, ids))
            writer.finish()
        return Spent(own, max(time.monotonic() - started, 1e-9), writer.waited)

    def _lacking(self, unit: Unit) -> list[str]:
        """Hook points whose shard of the unit is missing."""
        return [name for name, finished in self.finished.items() if unit.name not in finished]

    def _needed(self, unit: Unit) -> list[str]:
        """Hook points that have to be read for them."""
        return list(self.read) if self.recipe.paired else self._lacking(unit)

    def _ids(self, sentences: NDArray[np.int64]) -> list[list[int]]:
        texts = self.sentences.take(sentences, columns=["text"])["text"].to_pylist()
        return tokens.encode(self.model.tokenizer, texts, self.max_tokens)

    def _hand_over(
        self, writer: Writer, unit: Unit, ids: Sequence[Sequence[int]], captured: Mapping[str, Captured]
    ) -> None:
        """Say what is left out of a unit, and let its shards be written."""
        packed = Packed.pack(ids)
        origin = {
            "sentence": packed.sentence + unit.start,
            "position": packed.position.int(),
            "token": packed.ids.int(),
        }
        left_out = {
            name: drops(there, packed.position, self.calibrations[name].norm_threshold, self.recipe.drop_first)
            for name, there in captured.items()
        }
        joint = torch.stack([each.any for each in left_out.values()]).any(dim=0)
        for name in self._lacking(unit):
            chosen = ~(joint if self.recipe.paired else left_out[name].any)
            writer.put(partial(self._write, unit, name, captured[name], left_out[name], origin, chosen))

    def _write(
        self, unit: Unit, name: str, captured: Captured, left_out: Drops, origin: Mapping[str, Tensor], chosen: Tensor
    ) -> None:
        """Write one shard, and into the journal what it holds."""
        stage, total = self.stages[name], len(chosen)
        counts = {field: int(which.sum()) for field, which in left_out._asdict().items()}
        if counts["nonfinite"] > MAX_NONFINITE * total:
            raise StoreError(
                f"{stage.path}: {counts['nonfinite']:,} of {total:,} activations of sentences {unit.start} to "
                f"{unit.stop - 1} are not finite; set model.dtype = 'float32' and capture.dtype = 'float32'"
            )
        captured = captured.here()
        write_rows(stage.path / unit.name, captured, origin, chosen)
        usual = chosen & (captured.norms <= CENTRE_NORM_RATIO * self.calibrations[name].median_norm)
        sums = {"squared_error": captured.errors[usual], "squared_distance": captured.spreads[usual]}
        stage.add_shard(
            unit.name,
            int(chosen.sum()),
            tokens=total,
            **counts,
            dropped_elsewhere=int((~chosen & ~left_out.any).sum()),
            **{field: float(values.double().sum()) for field, values in sums.items()},
        )

    def _calibrations(self) -> dict[str, Calibration]:
        """Of every hook point; what an interrupted process measured is kept."""
        known = {name: Calibration.load(stage.path) for name, stage in self.read.items()}
        missing = [name for name, calibration in known.items() if calibration is None]
        if missing:
            for name, calibration in self._measured(missing).items():
                calibration.save(self.read[name].path)
                known[name] = calibration
        return {name: calibration for name, calibration in known.items() if calibration is not None}

    def _measured(self, hook_points: Sequence[str]) -> dict[str, Calibration]:
        """Lengths and norms of sentences spread evenly over the corpus."""
        lengths = [len(sentence) for sentence in self._ids(self._spread(LENGTH_SENTENCES))]
        length = sum(lengths) / len(lengths)
        size = (self.recipe.shard_mb << 20) / (length * stored_bytes(self.dtype, self.model.config.d_model))
        ids = self._ids(self._spread(NORM_SENTENCES))
        captured = read(self.model, ids, hook_points, {}, self.recipe.batch_tokens, lambda _: None)
        ratio = self.recipe.max_norm_ratio
        return {
            name: Calibration.of(there.here(), length, max(1, int(size)), ratio) for name, there in captured.items()
        }

    def _spread(self, count: int) -> NDArray[np.int64]:
        return np.linspace(0, len(self.sentences) - 1, min(count, len(self.sentences))).astype(np.int64)

    def _require_room(self, todo: Sequence[Unit]) -> None:
        needed = 0.0
        for name, finished in self.finished.items():
            calibration = self.calibrations[name]
            sentences = sum(unit.stop - unit.start for unit in todo if unit.name not in finished)
            needed += sentences * calibration.tokens_per_sentence * stored_bytes(self.dtype, calibration.d)
        disk.require_free(next(iter(self.stages.values())).path, int(needed), "capture")

    def _finish(self, name: str) -> None:
        stage, calibration = self.stages[name], self.calibrations[name]
        # float sums in the order of the shards, not in that in which ranks made them
        infos = [shard.info for shard in sorted(stage.collect(), key=lambda shard: shard.name)]
        counts = {field: sum(info.get(field, 0) for info in infos) for field in SUMMED}
        rows = sum(shard.rows for shard in stage.shards)
        error, distance = (sum(info[field] for info in infos) for field in ("squared_error", "squared_distance"))
        stage.finish(
            **counts,
            rows=rows,
            sentences=len(self.sentences),
            model=self.source,
            d=calibration.d,
            median_norm=calibration.median_norm,
            norm_threshold=calibration.norm_threshold,
            added_fvu=error / distance if distance else 0.0,
            bytes_per_activation=row_bytes(self.dtype, calibration.d),
        )
        share = 100 * (counts["tokens"] - rows) / counts["tokens"]
        told = ", ".join(f"{field} {count:,}" for field, count in counts.items())
        note(f"  {name}: {rows:,} activations stored, {share:.1f} % left out ({told})")
