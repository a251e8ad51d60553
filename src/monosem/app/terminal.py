"""Latents and steered text in the terminal: what `show`, `search` and `complete` print."""

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from monosem import steering
from monosem.completion import Completer, Completion, ReadToken
from monosem.interpret import cards, terminal
from monosem.lm.generate import Sampling
from monosem.run import Run

LATENTS_A_TOKEN = 3


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
    hits = cards.search(run.path, words, limit)
    if as_json:
        print(json.dumps(_plain(hits)))
    else:
        _console().print(terminal.show_hits(hits))


def complete(
    run: Run,
    prompts: Sequence[str],
    edits: Sequence[steering.Edit],
    sampling: Sampling,
    *,
    replace: bool,
    show_latents: bool,
    as_json: bool,
) -> None:
    """Print what the run's model makes of the prompts under the edits."""
    latents = LATENTS_A_TOKEN if show_latents else 0
    completer = Completer(run)
    for completion in completer.complete(prompts, edits, sampling, error_preserving=not replace, show_latents=latents):
        if as_json:
            print(json.dumps(completion.as_json()))
        else:
            _show_completion(completion)


def _show_completion(completion: Completion) -> None:
    console = _console()
    console.print(Text(completion.prompt, style="dim") + Text(completion.text, style="bold"))
    if completion.tokens:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("token", justify="right")
        table.add_column("its most active latents (value, share of the latent's maximum)")
        for token in completion.tokens:
            table.add_row(Text(repr(token.token)[1:-1]), _latents(token))
        console.print(table)


def _latents(token: ReadToken) -> Text:
    shown = Text()
    for active in token.latents:
        share = "" if active.share is None else f", {100 * active.share:.0f} %"
        shown.append("\n" if shown else "")
        shown.append(f"{active.latent:>6}", style="bold").append(f" {active.value:.3g}{share}  ", style="dim")
        shown.append(active.explanation or "(no explanation)")
        if active.certainty is not None:
            shown.append(f" {active.certainty:.2f}", style="dim")
    return shown


def _console() -> Console:
    return Console(highlight=False)


def _plain(value: Any) -> Any:
    """Named tuples as objects, for JSON."""
    if as_dict := getattr(value, "_asdict", None):
        value = as_dict()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
