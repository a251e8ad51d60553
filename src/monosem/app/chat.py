"""A conversation with the model in the terminal, or driven line by line through a pipe.

Flow: a line that begins with `/` is a command (`commands.py`), any other is answered, as it is written, under the
steering in force. A mistake is one line, and the conversation goes on as it was. Ctrl-C stops the answer; what is there
of it stays.
"""

import contextlib
import io
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from monosem import progress
from monosem.app.commands import Session, obey
from monosem.app.streaming import PairView, TextView
from monosem.completion import Began, Completion, Ended, Event, Wrote
from monosem.errors import MonosemError

LATENTS = 3  # read at every token, shown or not, so that they can be looked at afterwards
PROMPT = "> "


def chat(session: Session) -> None:
    """Answer line after line until the input ends or says `/quit`."""
    for line in _lines(session.console):
        try:
            if line.startswith("/"):
                if not obey(line, session):
                    return
            elif line.strip():
                answer(line, session)
        except MonosemError as error:
            progress.note(f"error: {error}")


def answer(question: str, session: Session) -> None:
    """Write the answer to a question, show it as it comes, and keep both.

    With a comparison the conversation goes on with the steered answer.

    Raises:
        ModelError: the context is full; nothing is kept.
    """
    prompt, sampling = session.conversation.ask(question, session.sampling)
    compare = session.compare and session.steers
    events = session.completer.stream(
        [prompt],
        session.steering.edits,
        sampling,
        error_preserving=not session.steering.replace,
        compare=compare,
        show_latents=LATENTS,
        perplexity=compare,
    )
    if compare and session.console.is_terminal:
        view = PairView(session.console, prompts=False, latents=session.latents)
    else:
        view = TextView(session.console, prompts=False, labels=compare, latents=session.latents)
    heard = Heard()
    try:
        with contextlib.closing(view.show(events)) as shown:
            for event in shown:
                heard.take(event)
    except KeyboardInterrupt:
        session.console.print()
        session.say("(stopped; the conversation goes on from here)")
    session.last = heard.completions
    if heard.text:
        session.conversation.add(question, heard.text)
    if any(one.finish == "length" for one in heard.completions):
        full = ": the context is full" * (sampling.max_new_tokens < session.sampling.max_new_tokens)
        session.say(f"(cut off after {sampling.max_new_tokens} tokens{full})")


class Heard:
    """What there is of an answer, finished or not."""

    def __init__(self) -> None:
        self.completions: list[Completion] = []
        self._steered: int | None = None
        self._text: list[str] = []

    @property
    def text(self) -> str:
        """Of the steered answer."""
        return "".join(self._text)

    def take(self, event: Event) -> None:
        """Take up one event of the answer."""
        if isinstance(event, Began) and event.text.steered:
            self._steered = event.row
        if isinstance(event, Wrote | Ended) and event.row == self._steered:
            self._text.append(event.text)
        if isinstance(event, Ended):
            self.completions.append(event.completion)


def _lines(console: Console) -> Iterator[str]:
    """The lines of standard input; from a keyboard with editing and history."""
    if not sys.stdin.isatty():
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (input() edits lines with it once it is there)
    console.print(Text("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves", style="dim"))
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print(Text("\nCtrl-D or /quit leaves", style="dim"))
