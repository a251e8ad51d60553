"""Of the verbs that look latents up in a finished run."""

from dataclasses import dataclass
from typing import Literal

import tyro

from monosem.cli.arguments.fields import RUNS, FinishedRun, Latent, RunsFolder
from monosem.recipe import Aggregation


@dataclass(frozen=True)
class ShowArguments:
    """Show one latent: its explanation, its figures, the sentences that activate it most."""

    target: FinishedRun
    latent: Latent
    aggregation: Aggregation | Literal["quantile", "random"] = "max"
    """Which sentences are shown: the best by an aggregation, some spread over its strength, or random ones."""
    top: int = 10
    """Sentences shown."""
    runs: RunsFolder = RUNS
    json: bool = False
    """Print the card as one JSON object."""


@dataclass(frozen=True)
class SearchArguments:
    """Find latents by words in their explanations and sentences."""

    target: FinishedRun
    words: tyro.conf.Positional[tuple[str, ...]]
    """Words to look for; upper and lower case are the same."""
    limit: int = 10
    """Most latents listed."""
    runs: RunsFolder = RUNS
    json: bool = False
    """Print the hits as a JSON list."""


@dataclass(frozen=True)
class NeighboursArguments:
    """Show the latents that fire on the same tokens as one, or whose decoder rows point the same way."""

    target: FinishedRun
    latent: Latent
    by: Literal["jaccard", "conditional", "reverse", "pmi", "cosine"] = "jaccard"
    """`jaccard`: tokens with both over tokens with either; `conditional`: P(neighbour | latent); `reverse`: P(latent |
    neighbour); `pmi`: pointwise mutual information; `cosine`: of the decoder rows."""
    top: int = 10
    """Neighbours listed."""
    runs: RunsFolder = RUNS
    json: bool = False
    """Print the neighbours as one JSON object."""


@dataclass(frozen=True)
class SeedsArguments:
    """Compare a run's latents with those of SAEs that differ in the seed alone: which of them another seed finds again.

    Without OTHERS, the runs in its sweep and beside it are looked through. Cards then warn of latents that are
    seed-unstable.

    Example: monosem sweep runs/demo --seed 0,1; monosem seeds runs/demo
    """

    target: FinishedRun
    others: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders, or names of runs, with another seed."""
    runs: RunsFolder = RUNS
    json: bool = False
    """Print the comparison as one JSON object."""
