"""The Explore tab's HTML: the list that a search finds, and the card of a latent. Pure functions of a run's files."""

import math
from typing import NamedTuple

import numpy as np

from monosem.app.page.drawing import Line, bar_chart, line_chart
from monosem.app.page.latents import Card, Explained
from monosem.app.page.library import OpenRun
from monosem.app.page.render import render
from monosem.app.page.searching import Query

MOST_BINS = 30
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

ORIGINS = {"aggregation": "from sentences by", "held_examples": "held-out sentences:"}
"""What the page says for keys of an explanation's provenance; the others are said as they are."""

SCORES = {
    "terms": "the explanation's words are looked for in sentences kept aside",
    "patterns": "patterns of tokens, learnt from its sentences, are looked for there",
    "ablated patterns": "the same, from patterns found by cutting and blanking its best examples",
    "detection": "a judge reads the explanation and says which sentences it fits",
    "fuzzing": "a judge says in which sentences the right tokens are marked",
    "intruder": "a judge finds the one sentence of five that does not belong; chance is 0.2",
    "simulation": "a judge foretells the latent's value at every token",
    "surprisal": "whether the explanation makes its sentences likelier to the model than others",
    "intervention": "how much more the model expects the explanation after a steered text, in nats",
    "meanings agree": "whether the explanation and what steered texts are about are one thing",
    "agreement with output": "the tokens that it raises, taken for an explanation of what it reacts to",
}
"""What the scores of a card measure, by the beginning of their labels; exact in `docs/definitions.md`."""

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
    shown = {"hits": hits, "total": len(found.latents), "n": figures.n, "current": current}
    html = render("hits", **shown, run=run.name, words=query.words.strip())
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
        score_words=[one for one in SCORES.items() if any(score.label.startswith(one[0]) for score in card.scores)],
        origins=[_origin(said) for said in card.explanations],
        places=PLACES,
        names={other: run.files.text(other) for other in dict.fromkeys(others)},
        histogram=_histogram(card),
        training=_over_training(card),
    )


def _origin(said: Explained) -> str:
    """Where an explanation comes from."""
    parts = [] if said.certainty is None else [f"certainty {said.certainty:.2f}"]
    parts.append(said.provider or "unknown provider")
    for key, value in said.provenance.items():
        if isinstance(value, str | int | float):
            told = WAYS[value][0] if key == "aggregation" and value in WAYS else value
            parts.append(f"{ORIGINS.get(key, key.replace('_', ' '))} {told}")
    return " · ".join(parts)


def _histogram(card: Card) -> str:
    if len(card.values) < 2:
        return ""
    low, high = min(card.values), max(*card.values, card.max)
    bins = min(MOST_BINS, 2 * math.ceil(len(card.values) ** (1 / 2)))
    counts, _ = np.histogram(card.values, bins=bins, range=(low, high))
    note = f"tokens of {card.values_from}"
    return bar_chart("Values", counts.tolist(), low, high, axis="value", note=note)


def _over_training(card: Card) -> str:
    if len(card.over_training) < 2:
        return ""
    steps, density = zip(*card.over_training, strict=True)
    line = Line("density", steps, [100 * share for share in density])
    return line_chart("Density over training", [line], unit="% of tokens")


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
