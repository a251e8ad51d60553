"""Events of the writing model on the terminal, or as plain text where there is none.

Several texts are written at once, but shown one after the other: each as its tokens come, the next ones from what has
gathered meanwhile. Nothing on the screen is redrawn, except the two columns of a comparison while they grow.
"""

import time
from collections.abc import Generator, Iterable, Iterator

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from monosem.app.latents import latents_table
from monosem.app.text import WordWrap, printable
from monosem.completion import Began, Completion, Ended, Event, Row, Wrote

REDRAWS = 12  # a second, at most


def in_order(events: Iterable[Event], together: int = 1) -> Iterator[Event]:
    """The same events, `together` rows at a time: those of later rows wait until the earlier ones have ended."""
    waiting: dict[int, list[Event]] = {}
    current, ended = 0, 0
    for event in events:
        waiting.setdefault(event.row // together, []).append(event)
        while ready := waiting.pop(current, None):
            yield from ready
            ended += sum(isinstance(one, Ended) for one in ready)
            if ended < together:
                break
            current, ended = current + 1, 0


class TextView:
    """Texts one after the other.

    Args:
        prompts: begin each with its prompt.
        labels: say of each whether it is plain or steered.
    """

    def __init__(self, console: Console, *, prompts: bool = True, labels: bool = False, latents: bool = False) -> None:
        self._console, self._prompts, self._labels, self._latents = console, prompts, labels, latents
        self._style = "bold" if prompts else ""
        self._wrap: WordWrap | None = None

    def show(self, events: Iterable[Event]) -> Generator[Event, None, None]:
        """Print events as they come; yields each once it is on the screen."""
        for event in in_order(events):
            match event:
                case Began(row, text):
                    self._begin(row, text)
                case Wrote(_, _, text):
                    self._print(text, self._style)
                case Ended(_, text, completion):
                    self._print(text, self._style)
                    self._end(completion)
            yield event

    def _begin(self, row: int, text: Row) -> None:
        self._wrap = WordWrap(self._console.width) if self._console.is_terminal else None
        if row:
            self._console.print()
        if self._labels:
            self._console.print(f"{_name(text.steered)}:", style="cyan")
        if self._prompts:
            self._print(text.prompt.text, "dim")

    def _print(self, text: str, style: str) -> None:
        text = printable(text)
        self._write(self._wrap.push(text) if self._wrap else text, style)

    def _write(self, text: str, style: str) -> None:
        if text:
            self._console.print(Text(text, style=style), end="", soft_wrap=True)
            self._console.file.flush()

    def _end(self, completion: Completion) -> None:
        if self._wrap:
            self._write(self._wrap.close(), self._style)
        self._console.print()
        if completion.perplexity is not None:
            self._console.print(f"({_perplexity(completion)})", style="dim")
        if self._latents:
            self._console.print(latents_table(completion.tokens))


class PairView:
    """Plain beside steered, in two columns that grow together. For a terminal."""

    def __init__(self, console: Console, *, prompts: bool = True, latents: bool = False) -> None:
        self._console, self._prompts, self._latents = console, prompts, latents

    def show(self, events: Iterable[Event]) -> Generator[Event, None, None]:
        """Draw events as they come; yields each once it has been taken up."""
        ordered = in_order(events, together=2)
        for event in ordered:
            assert isinstance(event, Began)
            yield event
            yield from self._pair(event, ordered)

    def _pair(self, first: Began, events: Iterator[Event]) -> Iterator[Event]:
        """Draw one pair, to its end."""
        start = printable(first.text.prompt.text) if self._prompts else ""
        columns = Columns(start, "bold" if self._prompts else "")
        drawn = time.monotonic()
        with Live(console=self._console, auto_refresh=False, get_renderable=columns.table) as live:
            for event in events:
                columns.take(event)
                if time.monotonic() - drawn > 1 / REDRAWS:
                    live.refresh()
                    drawn = time.monotonic()
                yield event
                if columns.full:
                    break
        if self._latents:
            for completion in columns.done:
                self._console.print(Text(f"{_name(completion.steered)}:", style="cyan"))
                self._console.print(latents_table(completion.tokens))
        self._console.print()


class Columns:
    """The two texts of a comparison."""

    def __init__(self, start: str, style: str) -> None:
        self.done: list[Completion] = []
        """Those that have ended, the plain one first."""
        self._texts = {steered: Text.assemble((start, "dim")) for steered in (False, True)}
        self._style = style

    @property
    def full(self) -> bool:
        """Whether both have ended."""
        return len(self.done) == 2

    def take(self, event: Event) -> None:
        """Take up one event of the pair."""
        if isinstance(event, Wrote | Ended):
            self._texts[event.row % 2 == 1].append(printable(event.text), style=self._style)
        if isinstance(event, Ended):
            self.done = sorted([*self.done, event.completion], key=lambda one: one.steered)

    def table(self) -> RenderableType:
        """Both as they stand."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True, header_style="cyan")
        told = {one.steered: f", {_perplexity(one)}" for one in self.done if one.perplexity is not None}
        for steered in self._texts:
            table.add_column(_name(steered) + told.get(steered, ""), ratio=1, overflow="fold")
        table.add_row(*self._texts.values())
        return table


def _name(steered: bool) -> str:
    return "steered" if steered else "plain"


def _perplexity(completion: Completion) -> str:
    return f"perplexity {completion.perplexity:.4g}"
