"""Turns a judge's answers into scores.

Flow: `ask` puts trials to a provider, which keeps what it was asked and asks nothing twice; the scores of each latent
are made of the trials that were answered as asked. Refusals, cut and malformed answers are outcomes: they are counted
and never guessed at. Knows no provider but by its protocol.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monosem.interpret.providers.protocol import Outcome, Provider, Usage
from monosem.interpret.score import measures, questions
from monosem.interpret.score.detection import deciles
from monosem.interpret.score.rows import Row
from monosem.interpret.score.trials import GROUP, Trial

LIKELY = 50.0  # from which a likelihood counts as yes
MIN_ANSWERED = 0.5  # of a latent's trials: with fewer there is no score


class Answered(NamedTuple):
    """A trial and what came of it."""

    trial: Trial
    numbers: list[float] | None
    """None: no answer that could be used."""
    status: str
    """Of the outcome; `malformed` for a text that was not what was asked for, `missing` where nothing came back."""


class Bill(NamedTuple):
    """What judging took."""

    outcomes: Mapping[str, int]
    """Trials by status."""
    usage: Usage
    models: Sequence[str]
    prompts: Mapping[str, str]
    """sha256 of each template that was used."""

    def plus(self, other: "Bill") -> "Bill":
        """Both together."""
        outcomes = Counter(self.outcomes)
        outcomes.update(other.outcomes)
        models = sorted({*self.models, *other.models})
        return Bill(dict(sorted(outcomes.items())), self.usage + other.usage, models, {**self.prompts, **other.prompts})

    def figures(self) -> dict[str, Any]:
        """For `scores.json`."""
        return {**self._asdict(), "usage": asdict(self.usage), "models": list(self.models)}


def ask(provider: Provider, trials: Sequence[Trial]) -> tuple[list[Answered], Bill]:
    """Each trial with its answer, and what the answers took.

    Raises:
        ProviderError: as `Provider.answer`.
    """
    outcomes = {outcome.id: outcome for outcome in provider.answer(trial.request for trial in trials)}
    answered = [_read(trial, outcomes.get(trial.request.id)) for trial in trials]
    return answered, _bill(answered, list(outcomes.values()))


def _bill(answered: Sequence[Answered], outcomes: Sequence[Outcome]) -> Bill:
    prompts = [questions.prompt(score) for score in sorted({one.trial.score for one in answered})]
    return Bill(
        dict(sorted(Counter(one.status for one in answered).items())),
        sum((outcome.usage for outcome in outcomes), Usage()),
        sorted({outcome.model for outcome in outcomes if outcome.model}),
        {prompt.name: prompt.sha256 for prompt in prompts},
    )


def score(answered: Iterable[Answered], largest: Mapping[int, float], seed: int) -> list[Row]:
    """The rows of every latent and score.

    Args:
        largest: the latent's largest value over the store: a simulated 10.
    """
    groups: dict[tuple[int, str, bool], list[Answered]] = {}
    for one in answered:
        groups.setdefault((one.trial.latent, one.trial.score, one.trial.own), []).append(one)
    rows: list[Row] = []
    for (latent, name, own), group in groups.items():
        if own:
            rng = np.random.default_rng((seed, latent))
            mine = _figures(name, group, largest.get(latent, 0.0), rng)
            others = _figures(name, groups.get((latent, name, False), []), largest.get(latent, 0.0), rng)
            rows += [row._replace(shuffled=others[key].value if key in others else None) for key, row in mine.items()]
    return rows


def _figures(name: str, group: Sequence[Answered], largest: float, rng: np.random.Generator) -> dict[str, Row]:
    """By figure, without the baseline; none where too few trials were answered."""
    there = [one for one in group if one.numbers is not None]
    if not there or len(there) < MIN_ANSWERED * len(group):
        return {}
    said = np.concatenate([np.asarray(one.numbers) for one in there])
    truth = np.concatenate([np.asarray(one.trial.truth) for one in there])
    latent = there[0].trial.latent
    if name == "intruder":
        return {"accuracy": Row(latent, name, "accuracy", float((said == truth).mean()), chance=1 / GROUP)}
    if name == "simulation":
        rows = _simulation(said, truth, largest)
    else:
        rows = _likelihoods(said, truth, rng)
        if rows and name == "detection":
            rows += deciles(0, "", said[truth > 0] >= LIKELY, truth[truth > 0])
    return {row.figure: row._replace(latent=latent, score=name) for row in rows}


def _likelihoods(said: NDArray[np.float64], truth: NDArray[np.float64], rng: np.random.Generator) -> list[Row]:
    firing, yes = truth > 0, said >= LIKELY
    if firing.all() or not firing.any():
        return []
    hits, of = int((yes & firing).sum()), int(firing.sum())
    rejections, silent = int((~yes & ~firing).sum()), int((~firing).sum())
    interval = measures.rate_interval(hits, of, rejections, silent, rng)
    f1 = float(measures.f1(np.asarray(hits), np.asarray(yes.sum()), np.asarray(of)))
    balanced = (hits / of + rejections / silent) / 2
    return [
        Row(0, "", "balanced_accuracy", balanced, *interval, chance=0.5),
        Row(0, "", "f1", f1),
        Row(0, "", "auroc", float(measures.auroc(said, firing)), chance=0.5),
    ]


def _simulation(said: NDArray[np.float64], truth: NDArray[np.float64], largest: float) -> list[Row]:
    """Over the tokens of all sentences together, those that the store holds."""
    known = ~np.isnan(truth)
    foretold, true = said[known] / 10, truth[known] / largest if largest > 0 else truth[known]
    return [
        Row(0, "", "correlation", measures.pearson(foretold, true), chance=0.0),
        Row(0, "", "r2", measures.explained(true, foretold), chance=0.0),
    ]


def _read(trial: Trial, outcome: Outcome | None) -> Answered:
    if outcome is None:
        return Answered(trial, None, "missing")
    if outcome.status != "succeeded":
        return Answered(trial, None, outcome.status)
    try:
        return Answered(trial, trial.read(outcome.text), "succeeded")
    except questions.AnswerError:
        return Answered(trial, None, "malformed")
