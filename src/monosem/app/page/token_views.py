"""Texts as rows of tokens that can be chosen, and the latents at the chosen one. Pure functions of what was read."""

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from monosem.app.page.render import percent, render
from monosem.interpret.cards import visible

if TYPE_CHECKING:  # torch, which a view does not need
    from monosem.completion import ActiveLatent, WrittenToken

LISTED = 30  # latents of a whole text


class Chip(NamedTuple):
    """A token as it is drawn."""

    text: str
    name: str
    """What it is called where it is only white space."""
    hint: str
    strength: float | None
    """From 0 to 1; None: not lit."""


class InText(NamedTuple):
    """A latent over a whole text."""

    top: "ActiveLatent"
    """Where it is strongest."""
    tokens: int
    """On which it fires."""


def chips(tokens: Iterable["WrittenToken"], shade: Collection[int] | None = None) -> list[Chip]:
    """Tokens lit by the latents of `shade`; None: by any. Each by the one that is nearest to its own maximum."""
    drawn = []
    for token in tokens:
        lit = [one for one in token.latents if shade is None or one.latent in shade]
        strongest = max(lit, key=_share, default=None)
        hint = "" if strongest is None else f"{strongest.latent}: {strongest.explanation or 'no explanation'}"
        if strongest is not None and strongest.share is not None:
            hint += f", {percent(strongest.share)} of its maximum"
        strength = None if strongest is None else min(1.0, abs(_share(strongest)))
        drawn.append(Chip(token.token, "" if token.token.strip() else visible(token.token), hint, strength))
    return drawn


def text_view(tokens: Sequence["WrittenToken"], shade: int | None) -> str:
    """A text whose tokens can be chosen."""
    return render("text", chips=chips(tokens, None if shade is None else (shade,)), shade=shade)


def in_text(tokens: Iterable["WrittenToken"]) -> list[InText]:
    """The latents of a text, by the largest share of their maximum that they reach in it."""
    found: dict[int, InText] = {}
    for token in tokens:
        for one in token.latents:
            known = found.get(one.latent)
            if known is None:
                found[one.latent] = InText(one, 1)
            else:
                found[one.latent] = InText(max(known.top, one, key=_share), known.tokens + 1)
    return sorted(found.values(), key=lambda one: (-_share(one.top), one.top.latent))


def summary_view(tokens: Sequence["WrittenToken"], run: str, shade: int | None) -> str:
    """The latents of a whole text."""
    return render("summary", latents=in_text(tokens)[:LISTED], run=run, shade=shade)


def ranking_view(token: "WrittenToken", run: str) -> str:
    """The latents at one token, strongest first."""
    highest = max((abs(one.value) for one in token.latents), default=1.0)
    return render("ranking", token=token, name=visible(token.token), run=run, highest=highest)


def _share(one: "ActiveLatent") -> float:
    return one.share if one.share is not None else 0.0
