"""The stage `activations/HOOK`: the language model's activations on the sentences, in shards of whole sentences.

Flow: sentences are cut into units of a fixed number, one shard a hook point each. A unit is tokenised, packed by
length, read by the model once for all hook points, put back into the order of its sentences, and handed to a thread
that filters and writes while the model reads the next. A unit's bytes depend on its number alone, so an interrupted
stage goes on with the units that are missing. Knows nothing of what is done with activations.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monosem import assets
from monosem.atomic import write_text
from monosem.corpus import tokens
from monosem.corpus.sentences import Sentences
from monosem.corpus.sentences import open_stage as open_sentences
from monosem.errors import StoreError
from monosem.lm.packed import Packed
from monosem.lm.protocol import LanguageModel
from monosem.lm.source import open_model
from monosem.progress import note, progress
from monosem.run import Run, Stage
from monosem.store import disk, remote, shards
from monosem.store.activations import open_stage
from monosem.store.encoding import CENTRE_NORM_RATIO, Format, Stored, centre_of, row_bytes
from monosem.store.shards import Rows

__all__ = ["Unit", "make", "open_stage", "units"]

CALIBRATION = "calibration.json"
LENGTH_SENTENCES, NORM_SENTENCES = 2048, 128  # spread over the corpus, that length and norm are measured on
MAX_NONFINITE = 1e-3  # share of a unit's activations that may be NaN or infinite
PUT_ROWS = 512  # encoded at once on a CPU
ORIGIN_BYTES = 16  # of sentence, position and token, a row


class Unit(NamedTuple):
    """Sentences that make one shard of each hook point."""

    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"activations-{self.number:05d}.safetensors"


class Calibration(NamedTuple):
    """What is measured once, at the start, and holds for every unit of a hook point."""

    d: int
    sentences_per_unit: int
    tokens_per_sentence: float
    median_norm: float
    norm_threshold: float | None
    """Activations with a larger norm are dropped. None: none are."""
    centre: list[float]
    """`[d]`, their mean without sinks."""


class Captured(NamedTuple):
    """Activations of one unit and hook point, in the order of the sentences, before any are dropped."""

    form: Format
    stored: Stored
    """Of `[T, d]` activations."""
    norms: Tensor
    """`[T]` float32, of the activations as the model gave them."""
    errors: Tensor
    """`[T]` float32, squared distances of what is stored from what the model gave."""
    spreads: Tensor
    """`[T]` float32, squared distances of what the model gave from the centre."""

    @classmethod
    def empty(cls, form: Format, rows: int) -> "Captured":
        return cls(form, form.empty(rows), *(torch.empty(rows) for _ in range(3)))

    def put(self, rows: Tensor, x: Tensor) -> None:
        """Store activations `x` as the rows of these numbers."""
        centre = self.form.centre.to(x.device)
        # few rows stay in a processor's cache; a GPU wants all of them
        count = PUT_ROWS if x.device.type == "cpu" else max(1, len(x))
        for chosen, part in zip(rows.split(count), x.split(count), strict=True):
            stored, exact = self.form.encode(part), part.float()
            for room, tensor in zip(self.stored, stored, strict=True):
                room[chosen] = tensor.cpu()
            lost = self.form.decode(stored) - exact
            for room, difference in ((self.errors, lost), (self.spreads, exact - centre)):
                room[chosen] = torch.linalg.vector_norm(difference, dim=1).square_().cpu()
            self.norms[chosen] = torch.linalg.vector_norm(exact, dim=1).cpu()


class Kept(NamedTuple):
    """What is stored of a unit, and how many activations are not."""

    rows: Rows
    chosen: Tensor
    """`[T]` bool, which of the activations they are."""
    dropped_first: int
    dropped_norm: int
    nonfinite: int


def units(sentences: int, size: int, rank: int = 0, ranks: int = 1) -> Iterator[Unit]:
    """The units of `size` sentences that a rank captures: every `ranks`-th one from its own on."""
    for number in range(rank, -(-sentences // size), ranks):
        yield Unit(number, number * size, min((number + 1) * size, sentences))


def make(run: Run) -> Stage:
    """Capture every hook point that is not complete, all in one pass, or take what was captured elsewhere.

    Raises:
        RunError: the sentences have not been made.
        ModelError: a hook point does not exist.
        StoreError: the disk is too small, or too many activations are not finite.
    """
    # the SAE's hook point is finished last: where it is complete, all are
    names = sorted(run.recipe.capture.hook_points, key=lambda name: name == run.recipe.hook_point)
    stages = {name: stage for name in names if not (stage := open_stage(run, name)).complete}
    if stages and run.recipe.capture.source is not None:
        for name, stage in stages.items():
            remote.adopt(stage, f"{run.recipe.capture.source}/{name}")
    elif stages:
        open_sentences(run).require()
        model = open_model(run.recipe.model)
        assets.record(run.path, [assets.resolve(run.recipe.model.source)])
        _Capture(run, model, stages).make()
    return open_stage(run, run.recipe.hook_point)


class _Capture:
    """One pass over the sentences for the hook points that are not complete."""

    def __init__(self, run: Run, model: LanguageModel, stages: Mapping[str, Stage]) -> None:
        self.recipe, self.max_tokens = run.recipe.capture, run.recipe.corpus.max_tokens
        self.model, self.source, self.stages = model, run.recipe.model.source, stages
        self.dtype: torch.dtype = getattr(torch, self.recipe.dtype)
        self.sentences = Sentences(run.folder("sentences"))
        self.finished = {name: {shard.name for shard in stage.begin()} for name, stage in stages.items()}
        self.formats: dict[str, Format] = {}
        self.calibrations = self._calibrations()
        self.formats = {name: Format(self.dtype, torch.tensor(c.centre)) for name, c in self.calibrations.items()}
        self.waited = 0.0

    def make(self) -> None:
        todo = [unit for unit in self._units() if self._lacking(unit)]
        self._require_room(todo)
        started, first = time.monotonic(), next(iter(self.stages.values()))
        calibration = next(iter(self.calibrations.values()))
        total = round(calibration.tokens_per_sentence * len(self.sentences))
        done = sum(shard.info["tokens"] for shard in first.shards)
        with progress("capture", total, "tokens", done) as advance, ThreadPoolExecutor(1) as writer:
            writing = writer.submit(lambda: None)
            for unit in todo:
                ids = self._ids(np.arange(unit.start, unit.stop))
                captured = self._read(ids, self._lacking(unit), advance)
                self._wait(writing.result)
                writing = writer.submit(self._write, unit, ids, captured)
            self._wait(writing.result)
        read = sum(shard.info["tokens"] for shard in first.shards) - done
        seconds = time.monotonic() - started
        note(f"  capture: {read / seconds:,.0f} tokens/s; {100 * self.waited / seconds:.1f} % of the time for the disk")
        for name in self.stages:
            self._finish(name)

    def _units(self) -> Iterator[Unit]:
        size = next(iter(self.calibrations.values())).sentences_per_unit
        return units(len(self.sentences), size)

    def _lacking(self, unit: Unit) -> list[str]:
        """Hook points whose shard of the unit is missing."""
        return [name for name, finished in self.finished.items() if unit.name not in finished]

    def _ids(self, sentences: NDArray[np.int64]) -> list[list[int]]:
        texts = self.sentences.take(sentences, columns=["text"])["text"].to_pylist()
        return tokens.encode(self.model.tokenizer, texts, self.max_tokens)

    def _read(
        self, ids: Sequence[Sequence[int]], hook_points: Sequence[str], advance: Callable[[int], None]
    ) -> dict[str, Captured]:
        """The activations of sentences, which are packed by length: attention then works on sentences of one size."""
        lengths = np.array([len(sentence) for sentence in ids], dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        captured: dict[str, Captured] = {}
        for batch in _batches(lengths, self.recipe.batch_tokens):
            packed = Packed.pack([ids[sentence] for sentence in batch])
            rows = torch.from_numpy(starts[batch])[packed.sentence] + packed.position
            for name, x in self.model.activations(packed, hook_points).items():
                if name not in captured:
                    # until a hook point is calibrated, as exact as can be
                    form = self.formats.get(name) or Format(torch.float32, torch.zeros(x.shape[1]))
                    captured[name] = Captured.empty(form, int(lengths.sum()))
                captured[name].put(rows, x)
            advance(packed.n_tokens)
        return captured

    def _write(self, unit: Unit, ids: Sequence[Sequence[int]], captured: Mapping[str, Captured]) -> None:
        """Filter and write the shards of one unit."""
        packed = Packed.pack(ids)
        origin = (packed.sentence + unit.start, packed.position.int(), packed.ids.int())
        for name, (form, stored, norms, errors, spreads) in captured.items():
            stage, calibration = self.stages[name], self.calibrations[name]
            rows = Rows(stored.activations, *origin)
            kept = keep(rows, norms, calibration.norm_threshold, self.recipe.drop_first)
            if kept.nonfinite > MAX_NONFINITE * packed.n_tokens:
                raise StoreError(
                    f"{stage.path}: {kept.nonfinite:,} of {packed.n_tokens:,} activations of sentences {unit.start} to "
                    f"{unit.stop - 1} are not finite; set model.dtype = 'float32' and capture.dtype = 'float32'"
                )
            chosen = Stored(kept.rows.activations, stored.scales[kept.chosen])
            shards.write(stage.path / unit.name, shards.shard_tensors(chosen, kept.rows._asdict(), form))
            counts = {field: getattr(kept, field) for field in Kept._fields[2:]}
            usual = kept.chosen & (norms <= CENTRE_NORM_RATIO * calibration.median_norm)
            sums = {"squared_error": errors[usual], "squared_distance": spreads[usual]}
            counts |= {field: float(values.double().sum()) for field, values in sums.items()}
            stage.add_shard(unit.name, len(kept.rows.sentence), tokens=packed.n_tokens, **counts)

    def _calibrations(self) -> dict[str, Calibration]:
        """Of every hook point; what an interrupted process measured is kept."""
        missing = [name for name, stage in self.stages.items() if not _is_calibration(stage.path / CALIBRATION)]
        if missing:
            for name, calibration in self._calibrate(missing):
                write_text(self.stages[name].path / CALIBRATION, json.dumps(calibration._asdict(), indent=2) + "\n")
        files = {name: stage.path / CALIBRATION for name, stage in self.stages.items()}
        return {name: Calibration(**json.loads(file.read_text(encoding="utf-8"))) for name, file in files.items()}

    def _calibrate(self, hook_points: Sequence[str]) -> Iterator[tuple[str, Calibration]]:
        """Measure lengths and norms on sentences spread evenly over the corpus."""
        lengths = [len(sentence) for sentence in self._ids(self._spread(LENGTH_SENTENCES))]
        mean_length = sum(lengths) / len(lengths)
        stored_bytes = row_bytes(self.dtype, self.model.config.d_model) + ORIGIN_BYTES
        size = max(1, int((self.recipe.shard_mb << 20) / (mean_length * stored_bytes)))
        for name, captured in self._read(self._ids(self._spread(NORM_SENTENCES)), hook_points, lambda _: None).items():
            median = float(captured.norms[captured.norms.isfinite()].median())
            threshold = median * self.recipe.max_norm_ratio or None
            centre = centre_of(captured.stored.activations, captured.norms)
            yield name, Calibration(len(centre), size, mean_length, median, threshold, centre.tolist())

    def _spread(self, count: int) -> NDArray[np.int64]:
        return np.linspace(0, len(self.sentences) - 1, min(count, len(self.sentences))).astype(np.int64)

    def _require_room(self, todo: Sequence[Unit]) -> None:
        needed = 0.0
        for name, calibration in self.calibrations.items():
            stored_bytes = row_bytes(self.dtype, calibration.d) + ORIGIN_BYTES
            sentences = sum(unit.stop - unit.start for unit in todo if unit.name not in self.finished[name])
            needed += sentences * calibration.tokens_per_sentence * stored_bytes
        disk.require_free(next(iter(self.stages.values())).path, int(needed), "capture")

    def _wait(self, result: Callable[[], None]) -> None:
        started = time.monotonic()
        result()
        self.waited += time.monotonic() - started

    def _finish(self, name: str) -> None:
        stage, calibration = self.stages[name], self.calibrations[name]
        summed = ("tokens", "dropped_first", "dropped_norm", "nonfinite")
        counts = {field: sum(shard.info[field] for shard in stage.shards) for field in summed}
        rows = sum(shard.rows for shard in stage.shards)
        squared_error, squared_distance = (
            sum(shard.info[field] for shard in stage.shards) for field in ("squared_error", "squared_distance")
        )
        stage.finish(
            **counts,
            rows=rows,
            sentences=len(self.sentences),
            model=self.source,
            d=calibration.d,
            median_norm=calibration.median_norm,
            norm_threshold=calibration.norm_threshold,
            added_fvu=squared_error / squared_distance if squared_distance else 0.0,
            bytes_per_activation=row_bytes(self.dtype, calibration.d),
        )
        share = 100 * (counts["tokens"] - rows) / counts["tokens"]
        told = ", ".join(f"{field} {count:,}" for field, count in counts.items())
        note(f"  {name}: {rows:,} activations stored, {share:.1f} % left out ({told})")


def keep(captured: Rows, norms: Tensor, norm_threshold: float | None, drop_first: bool) -> Kept:
    """Leave out first tokens if asked, activations with a norm beyond the threshold, and those that are not finite.

    Args:
        captured: all activations of whole sentences.
        norms: `[T]`, before the activations were rounded to the format of the store.
        norm_threshold: None: keep all.
    """
    nonfinite = ~norms.isfinite()
    first = (captured.position == 0) & drop_first & ~nonfinite
    over = norms > norm_threshold if norm_threshold is not None else torch.zeros_like(nonfinite)
    over &= ~nonfinite & ~first
    # a finite value can still be beyond the range of float16
    nonfinite |= ~captured.activations.isfinite().all(dim=1) & ~first & ~over
    kept = ~(nonfinite | first | over)
    rows = captured if kept.all() else Rows(*(tensor[kept] for tensor in captured))
    return Kept(rows, kept, int(first.sum()), int(over.sum()), int(nonfinite.sum()))


def _is_calibration(file: Path) -> bool:
    """Whether `file` is there and of this version: an earlier one measured less, and is measured again to the same."""
    try:
        return set(json.loads(file.read_text(encoding="utf-8"))) == set(Calibration._fields)
    except FileNotFoundError:
        return False


def _batches(lengths: NDArray[np.int64], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of the sentences by their length, in batches of at most `batch_tokens` or of one sentence."""
    order = np.argsort(lengths, kind="stable")
    start = filled = 0
    for stop, sentence in enumerate(order):
        if filled + lengths[sentence] > batch_tokens and stop > start:
            yield order[start:stop]
            start, filled = stop, 0
        filled += int(lengths[sentence])
    yield order[start:]
