"""What a user sees and keeps of a running stage: progress bars, notes, and metrics.

Flow: `progress` draws a bar on a terminal and a line every few seconds elsewhere; `note` prints one line; metrics go
through `Sink`s (console, `metrics.jsonl`, Weights & Biases), all behind one protocol. Standard output stays free for
answers: everything here writes to standard error.
"""

import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)
LINE_SECONDS = 15.0  # between two lines where there is no terminal to draw on


def note(text: str) -> None:
    """Print one line for the user."""
    console.print(text, markup=False, soft_wrap=True)


def silence() -> None:
    """Show nothing from now on: of several ranks, one speaks."""
    console.quiet = True


@contextlib.contextmanager
def progress(what: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show progress; the block calls the yielded function with each amount done.

    Args:
        what: the work, such as `capture`.
        total: amount of all the work, in `unit`.
        done: amount that an earlier, interrupted process did.
    """
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        rate = TextColumn("{task.fields[rate]}")
        with Progress(*columns, rate, TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task(what, total=total, completed=done, rate="")
            meter = _Meter(total, done)

            def advance(amount: int) -> None:
                meter.add(amount)
                bar.update(task, advance=amount, rate=f"{meter.rate:,.0f} {unit}/s")

            yield advance
    else:
        yield _Lines(what, total, unit, done).add


class _Meter:
    """Amount and rate since this process began."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        self._began, self._start = done, time.monotonic()

    def add(self, amount: int) -> None:
        self.done += amount

    @property
    def rate(self) -> float:
        return (self.done - self._began) / max(time.monotonic() - self._start, 1e-9)

    @property
    def seconds_left(self) -> float:
        return (self.total - self.done) / self.rate if self.rate > 0 else float("inf")


class _Lines:
    """Progress as lines, for logs."""

    def __init__(self, what: str, total: int, unit: str, done: int) -> None:
        self._what, self._unit, self._meter = what, unit, _Meter(total, done)
        self._printed = time.monotonic()

    def add(self, amount: int) -> None:
        meter = self._meter
        meter.add(amount)
        now = time.monotonic()
        if now - self._printed >= LINE_SECONDS:
            self._printed = now
            share = 100 * meter.done / max(meter.total, 1)
            note(
                f"  {self._what}: {share:.0f} % ({meter.done:,} of {meter.total:,} {self._unit}), "
                f"{meter.rate:,.0f} {self._unit}/s, {meter.seconds_left:.0f} s left"
            )


class Sink(Protocol):
    """Where metrics of a training run go."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonlSink:
    """One JSON object a line; holds only what the recipe decides, so two runs give the same bytes.

    On resume, lines after the checkpoint's step are cut off: they will be written again.
    """

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        kept = _lines_until(path, resume_step) if path.exists() else []
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class ConsoleSink:
    """The main figures as a line, every few seconds and at each validation."""

    SHOWN = ("loss", "l0", "dead", "lr", "validation_fvu")

    def __init__(self, seconds: float = LINE_SECONDS) -> None:
        self._seconds, self._printed = seconds, float("-inf")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        due = time.monotonic() - self._printed >= self._seconds
        if due or "validation_fvu" in values:
            self._printed = time.monotonic()
            shown = "  ".join(f"{name.replace('_', ' ')} {values[name]:.4g}" for name in self.SHOWN if name in values)
            note(f"  step {step:,}  {shown}")

    def close(self) -> None:
        pass


class WandbSink:
    """Weights & Biases; without a network or a login it goes on offline and says so in one line."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], mode: str) -> None:
        try:
            import wandb
            from wandb.errors import AuthenticationError, CommError, UsageError
        except ImportError:
            from monosem.errors import TrainingError

            raise TrainingError(
                "train.wandb: the package wandb is not installed; pip install 'monosem[wandb]', or set it to 'off'"
            ) from None
        options: dict[str, Any] = {
            "project": "monosem",
            "name": name,
            "config": dict(config),
            "dir": folder,
            "settings": wandb.Settings(silent=True, init_timeout=30),
        }
        try:
            self._run = wandb.init(mode=mode, **options)  # type: ignore[arg-type]
        except (AuthenticationError, CommError, UsageError) as error:
            note(f"  wandb: {str(error).splitlines()[0]}; going on offline, send it later with: wandb sync")
            self._run = wandb.init(mode="offline", **options)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def pictures(self, step: int, pictures: Mapping[str, bytes]) -> None:
        """Keep PNG files by name, shown at `step`."""
        import wandb
        from PIL import Image

        images = {name: wandb.Image(Image.open(io.BytesIO(png))) for name, png in pictures.items()}
        self._run.log(images, step=step)

    def close(self) -> None:
        self._run.finish()


class Sinks:
    """Several sinks as one."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)

    def pictures(self, step: int, draw: Callable[[], Mapping[str, bytes]]) -> None:
        """Give PNG files by name to the sinks that take them; without one, nothing is drawn."""
        takers = [sink for sink in self._sinks if isinstance(sink, WandbSink)]
        if takers:
            drawn = draw()
            for sink in takers:
                sink.pictures(step, drawn)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for sink in self._sinks:
            sink.log(step, values)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`; a line torn by an interruption is left out."""
    rows: list[dict[str, float]] = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
    return rows


def _lines_until(path: Path, step: int) -> list[str]:
    return [json.dumps(row) + "\n" for row in read_metrics(path) if row["step"] <= step]
