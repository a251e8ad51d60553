"""The Explore tab's HTML: the list that a search finds, and the card of a latent. Pure functions of a run's files."""

from typing import NamedTuple

import numpy as np

from monosem.app.page.drawing import Line, bar_chart, line_chart
from monosem.app.page.latents import Card
from monosem.app.page.library import OpenRun
from monosem.app.page.render import render
from monosem.app.page.searching import Query

BINS = 30
SENTENCES = 8  # by each aggregation, until all are asked for
ALL = 1 << 15


WAYS = {
    "max": ("strongest token", "sentences with the highest single value"),
    "mean": ("highest mean", "sentences with the highest mean over their tokens"),
    "last": ("last token", "sentences with the highest value at their last token"),
    "quantile": ("weak to strong", "sentences spread evenly over the strength of its firing"),
    "random": ("at random", "sentences drawn at random from all in which it fires"),
}
"""How each way of choosing sentences is called, and what it means."""

PLACES = {"at": "fires there", "before": "just before", "about": "anywhere"}


class Hit(NamedTuple):
    """One line of the list."""

    latent: int
    text: str | None
    certainty: float | None
    score: float | None
    density: float
    sentences: int


class Hits(NamedTuple):
    """What a search found."""

    html: str
    latents: list[int]
    """All of them, in the order of the list."""


def hits_view(run: OpenRun, query: Query, most: int, current: int | None) -> Hits:
    """The first `most` latents that a query finds, and all their numbers.

    Raises:
        RunError: the run has no examples, or a file is damaged.
    """
    scores = run.files.scores.of_all(run.files.figures().n)
    found = run.searcher.find(query, scores)
    figures, explanations = run.files.figures(), run.files.explanations
    certainty = np.full(figures.n, np.nan) if explanations is None else explanations.certainty(figures.n)
    hits = [
        Hit(
            latent,
            run.files.text(latent),
            _known(float(certainty[latent])),
            _known(float(scores[latent])),
            float(figures.density[latent]),
            int(found.sentences[latent]),
        )
        for latent in found.latents[:most].tolist()
    ]
    html = render("hits", hits=hits, total=len(found.latents), run=run.name, current=current, words=query.words.strip())
    return Hits(html, found.latents.tolist())


def card_view(run: OpenRun, latent: int, most: int = SENTENCES) -> str:
    """The card of a latent.

    Raises:
        SaeError: there is no such latent.
        RunError: the run has no examples, or a file is damaged.
    """
    card = run.files.card(latent, most)
    others = [row["neighbour"] for row in card.relations.neighbours] + [
        row["partner"] for row in card.relations.partners
    ]
    return render(
        "card",
        card=card,
        run=run.name,
        ways=WAYS,
        places=PLACES,
        names={other: run.files.text(other) for other in dict.fromkeys(others)},
        histogram=_histogram(card),
        training=_over_training(card),
    )


def _histogram(card: Card) -> str:
    if len(card.values) < 2:
        return ""
    low, high = min(card.values), max(*card.values, card.max)
    counts, _ = np.histogram(card.values, bins=BINS, range=(low, high))
    return bar_chart(f"Where it fires, how strongly ({card.values_from})", counts.tolist(), low, high, "")


def _over_training(card: Card) -> str:
    if len(card.over_training) < 2:
        return ""
    steps, density = zip(*card.over_training, strict=True)
    return line_chart("Density over training", [Line("density", steps, [100 * share for share in density])], unit="%")


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
