"""Latents and steered text in the terminal: what `show`, `search` and `complete` print."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from monosem.app.latents import latents_table
from monosem.app.streaming import PairView, TextView, in_order
from monosem.completion import Completer, Ended, Event, SteeringSet, read
from monosem.interpret import cards, terminal
from monosem.interpret import search as finding
from monosem.lm.generate import Sampling
from monosem.run import Run


@dataclass(frozen=True)
class Settings:
    """How the prompts are to be continued."""

    steering: SteeringSet
    sampling: Sampling
    compare: bool = False
    """Write each text plain and steered."""
    samples: int = 1
    """Texts for each prompt."""
    latents: int = 0
    """Latents shown at each token."""


def show_latent(run: Run, latent: int, aggregation: str, top: int, *, as_json: bool) -> None:
    """Print one latent's card."""
    card = cards.cards(run.path, [latent], most=top)[0]
    card = card._replace(examples={aggregation: card.examples.get(aggregation, [])})
    if as_json:
        print(json.dumps(_plain(card)))
    else:
        _console().print(terminal.show_card(card, top))


def search(run: Run, words: str, limit: int, *, as_json: bool) -> None:
    """Print the latents that `words` find."""
    hits = finding.find(run.path, words, limit)
    if as_json:
        print(json.dumps(_plain(hits)))
    else:
        _console().print(terminal.show_hits(hits))


def tokens(completer: Completer, text: str, top: int, *, as_json: bool) -> None:
    """Print the latents at each token of a text.

    Raises:
        ModelError: the text is empty, or longer than the model's context.
    """
    found = read(completer, text, top)
    if as_json:
        print(json.dumps([_plain(token) for token in found]))
    else:
        _console().print(latents_table(found))


def complete(completer: Completer, prompts: Sequence[str], settings: Settings, *, as_json: bool) -> None:
    """Print what the run's model makes of the prompts, as it is written."""
    events = completer.stream(
        prompts,
        settings.steering.edits,
        settings.sampling,
        error_preserving=not settings.steering.replace,
        compare=settings.compare,
        samples=settings.samples,
        show_latents=settings.latents,
        perplexity=settings.compare or as_json,
    )
    if as_json:
        _print_json(events, settings)
        return
    console, latents = _console(), settings.latents > 0
    if settings.compare and console.is_terminal:
        view = PairView(console, latents=latents)
    else:
        view = TextView(console, labels=settings.compare, latents=latents)
    for _ in view.show(events):
        pass


def _print_json(events: Iterable[Event], settings: Settings) -> None:
    """One object a text, in order."""
    edits = [dataclasses.asdict(edit) for edit in settings.steering.edits]
    for event in in_order(events):
        if isinstance(event, Ended):
            told = event.completion.as_json()
            steering = {"edits": edits if told["steered"] else [], "replace": settings.steering.replace}
            sampling = {name: getattr(settings.sampling, name) for name in ("max_new_tokens", "temperature", "top_p")}
            print(json.dumps(told | steering | sampling), flush=True)


def _console() -> Console:
    return Console(highlight=False)


def _plain(value: Any) -> Any:
    """Named tuples as objects, for JSON."""
    if as_dict := getattr(value, "_asdict", None):
        value = as_dict()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
