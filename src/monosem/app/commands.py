"""The commands of a chat: `/steer 896=20` and the like.

Each is a function of the session and the words behind its name. A mistake is an error, and changes nothing.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast, get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from monosem.app.latents import latents_table
from monosem.completion import Completer, Completion, Conversation, SteeringSet
from monosem.errors import RecipeError
from monosem.lm.generate import Sampling
from monosem.steering import Mode, parse, spell


@dataclass
class Session:
    """One chat: what is said, and how it is steered, sampled and shown."""

    completer: Completer
    conversation: Conversation
    console: Console
    sampling: Sampling
    steering: SteeringSet
    mode: Mode = "add"
    """Of the edits to come."""
    compare: bool = False
    """Answer plain and steered."""
    latents: bool = False
    """Show the latents of every answer."""
    last: list[Completion] = field(default_factory=list)
    """The last answer: plain and steered, or one of them."""

    @property
    def steers(self) -> bool:
        """Whether the steering changes anything."""
        return bool(self.steering.edits) or self.steering.replace

    def put(self, steering: SteeringSet) -> None:
        """Steer this way from now on. Raises SaeError where an edit does not fit the SAE."""
        self.completer.steering(steering.edits)
        self.steering = steering

    def say(self, text: str) -> None:
        """Print one line about the session."""
        self.console.print(Text(text, style="dim"), soft_wrap=True)


class Command(NamedTuple):
    """One command."""

    form: str
    """How it is written."""
    help: str
    call: Callable[[Session, str], None]


def obey(line: str, session: Session) -> bool:
    """Carry out one line that begins with `/`; False when it ends the chat.

    Raises:
        MonosemError: there is no such command, or what follows does not fit; nothing has changed.
    """
    name, _, rest = line.removeprefix("/").partition(" ")
    if name == "quit":
        return False
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, [*COMMANDS, "quit"], n=1)
        hint = f"did you mean /{nearest[0]}?" if nearest else "/help lists them"
        raise RecipeError(f"no command /{name}; {hint}")
    COMMANDS[name].call(session, rest.strip())
    return True


def _steer(session: Session, rest: str) -> None:
    if rest == "off":
        session.put(SteeringSet(replace=session.steering.replace))
    elif rest:
        words = re.sub(r"\s*=\s*", "=", rest).split()
        session.put(session.steering.updated(parse(word, session.mode) for word in words))
    _show_steering(session)


def _show_steering(session: Session) -> None:
    if not session.steers:
        session.say("nothing is steered")
    for edit in session.steering.edits:
        explained = session.completer.explained(edit.latent)
        session.say(f"{spell(edit):>12}  {edit.mode:<6}  {explained.explanation or '(no explanation)'}")
    if session.steering.replace:
        session.say("the SAE's reconstruction replaces the activation")


def _mode(session: Session, rest: str) -> None:
    if rest and rest not in get_args(Mode):
        raise RecipeError(f"/mode {rest}: expected {', '.join(get_args(Mode))}")
    if rest:
        mode = cast(Mode, rest)
        edits = tuple(dataclasses.replace(edit, mode=mode) for edit in session.steering.edits)
        session.put(SteeringSet(edits, session.steering.replace))
        session.mode = mode
    session.say(f"mode: {session.mode}")
    if session.steers:
        _show_steering(session)


def _latents(session: Session, rest: str) -> None:
    if rest:
        session.latents = _switch("latents", rest)
        session.say(f"latents of answers: {rest}")
    elif not session.last:
        session.say("there is no finished answer yet")
    for completion in () if rest else session.last:
        if len(session.last) > 1:
            session.say("steered:" if completion.steered else "plain:")
        session.console.print(latents_table(completion.tokens))


def _compare(session: Session, rest: str) -> None:
    session.compare = _switch("compare", rest) if rest else not session.compare
    told = "answers are written plain and steered" if session.compare else "one answer"
    session.say(told + ("" if session.steers or not session.compare else ", once something is steered: /steer 896=20"))


def _reset(session: Session, rest: str) -> None:
    _nothing("reset", rest)
    session.conversation.reset()
    session.last = []
    session.say("the conversation begins anew; steering and system message stay")


def _system(session: Session, rest: str) -> None:
    if rest:
        session.conversation.system = rest
    session.say(f"system message: {session.conversation.system or '(the default of the model)'}")


def _temperature(session: Session, rest: str) -> None:
    if rest:
        try:
            value = float(rest)
        except ValueError:
            raise RecipeError(f"/temperature {rest}: expected a number, 0 (greedy) or more") from None
        session.sampling = dataclasses.replace(session.sampling, temperature=value)
    session.say(f"temperature {session.sampling.temperature:g}, top-p {session.sampling.top_p:g}")


def _save(session: Session, rest: str) -> None:
    path = _file("save", rest)
    session.steering.save(path)
    session.say(f"{len(session.steering.edits)} edits in {path}; use them with --steering {path}")


def _load(session: Session, rest: str) -> None:
    session.put(SteeringSet.load(_file("load", rest)))
    _show_steering(session)


def _help(session: Session, rest: str) -> None:
    _nothing("help", rest)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    for command in COMMANDS.values():
        table.add_row(Text(command.form), command.help)
    table.add_row("/quit", "leave; so does the end of the input, Ctrl-D")
    session.console.print(table)


def _switch(name: str, rest: str) -> bool:
    if rest not in ("on", "off"):
        raise RecipeError(f"/{name} {rest}: expected on or off")
    return rest == "on"


def _nothing(name: str, rest: str) -> None:
    if rest:
        raise RecipeError(f"/{name} {rest}: expected nothing behind /{name}")


def _file(name: str, rest: str) -> Path:
    if not rest:
        raise RecipeError(f"/{name}: expected a file, such as /{name} calm.toml")
    return Path(rest).expanduser()


COMMANDS = {
    "steer": Command("/steer 896=20 12=2max", "steer these too; alone: list; /steer off: none", _steer),
    "mode": Command("/mode add|clamp|scale|ablate", "what values do, old ones and new ones; alone: show it", _mode),
    "latents": Command("/latents [on|off]", "of the last answer; on: of every answer", _latents),
    "compare": Command("/compare [on|off]", "answer plain and steered; the steered answer stays", _compare),
    "reset": Command("/reset", "forget what was said", _reset),
    "system": Command("/system TEXT", "set the system message; alone: show it", _system),
    "temperature": Command("/temperature 0.7", "0: the most probable token; alone: show it", _temperature),
    "save": Command("/save FILE", "write the steering as TOML", _save),
    "load": Command("/load FILE", "take the steering from a file", _load),
    "help": Command("/help", "this list", _help),
}
