"""The Playground's HTML: steered latents with their sliders, and the texts that were written. Pure functions."""

from collections.abc import Sequence
from typing import NamedTuple

from monosem.app.page.desk import Desk, Text
from monosem.app.page.render import render
from monosem.app.page.token_views import Chip, chips

FARTHEST = 5.0  # of a slider, in multiples of the latent's maximum

FINISHES = {"stop": "ended by the model", "length": "cut off at the limit", "stopped": "stopped"}


class Steered(NamedTuple):
    """One line of the steering panel."""

    latent: int
    value: float
    """In multiples of the latent's largest value; a factor where the mode is `scale`."""
    mode: str
    text: str | None
    maximum: float


class Column(NamedTuple):
    """One text of an exchange, as it is drawn."""

    key: str
    """What its tokens begin with: exchange and text."""
    title: str
    chips: list[Chip]
    figures: list[tuple[str, str]]
    """Name and value of what is measured."""
    says: str
    """How it ended."""
    writing: bool


def steering_view(steered: Sequence[Steered], run: str, version: int) -> str:
    """The panel. `version`: of this view; a browser that moved sliders since takes the panel anew with another one."""
    reach = max([FARTHEST, *(abs(one.value) for one in steered)])
    return render("steering", steered=steered, run=run, version=version, reach=reach)


def texts_view(desk: Desk) -> str:
    """All texts of a desk, the latest last in a chat."""
    shown = [
        (
            exchange.prompt,
            bool(exchange.edited),
            [_column(text, f"{place}-{side}-", exchange.edited) for side, text in enumerate(exchange.texts)],
        )
        for place, exchange in enumerate(desk.exchanges)
    ]
    return render("texts", exchanges=shown, chat=desk.chat)


def _column(text: Text, key: str, edited: frozenset[int]) -> Column:
    figures = []
    if text.perplexity is not None:
        figures.append(("perplexity", f"{text.perplexity:.4g}"))
    if text.concept is not None:
        figures.append(("concept", f"{100 * text.concept:.3g} %"))
    return Column(
        key,
        "Steered" if text.steered else "Plain",
        chips(text.tokens, edited or None),
        figures,
        FINISHES.get(text.finish or "", ""),
        text.finish is None,
    )
