"""The stage `explanations`: says in words what each latent reacts to, one JSON object a latent.

Flow: `lexical` compares each latent's examples with an even sample of the corpus, a batch of latents at a time; any
other provider is asked (`Asking`). A latent that cannot be explained stands in the file as well, with `explanation`
null and the reason.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from monosem import progress
from monosem.atomic import atomic_path
from monosem.errors import RecipeError
from monosem.interpret import examples, lexicons, tables
from monosem.interpret.asking import DEAD, Asking
from monosem.interpret.cards import EXPLANATIONS
from monosem.interpret.lexical import Explanation
from monosem.interpret.prompts import Prompter
from monosem.interpret.providers import paid
from monosem.recipe import Recipe
from monosem.run import Run, Stage, read_manifest

DRAWN = ("quantile", "random")
"""Examples that `lexical` reads beside the highest ones: what a latent reacts to weakly belongs to its meaning."""
LATER = ("evaluate", "score", "report")
"""Stages whose `--redo` leaves explanations as they are."""


def open_stage(run: Run) -> Stage:
    """The stage's folder; writes nothing.

    Raises:
        RunError: its files were made with another recipe.
    """
    recipe = run.recipe.explain
    if recipe.provider == "lexical":
        keys = ("provider", "aggregation", "terms")
        part = {**{key: getattr(recipe, key) for key in keys}, "seed": run.recipe.seed}
    else:
        part = {**recipe.fingerprint_part(), "prompt": Prompter(recipe).identity}
        del part["terms"]
    return run.stage(run.folder("explanations"), part, [examples.open_stage(run)])


def make(run: Run) -> Stage:
    """Write `explanations.jsonl`. A provider that costs money is sent nothing without `explain.send`.

    Raises:
        RunError: there are no examples.
        RecipeError: `explain.aggregation` is not among those that the examples were chosen by.
        ProviderError: there are requests to send, and no consent; or as `Asking.finish`.
    """
    stage = open_stage(run)
    if stage.complete:
        return stage
    check_aggregation(run.recipe)
    if run.recipe.explain.provider == "lexical":
        return _make_lexical(run, stage)
    asking = Asking(run, stage)
    with asking.post:
        asking.finish()
        return asking.write()


def check(run: Run, verbs: Sequence[str], redo: str | None) -> None:  # noqa: ARG001 - part of what a stage may have
    """Before anything is deleted: answers that were paid for are kept.

    Raises:
        RunError: `--redo` would delete them.
    """
    if redo not in (None, *LATER):
        folder = run.folder("explanations")
        manifest = read_manifest(folder)
        paid.keep(folder, manifest.recipe["provider"] if manifest else None, redo)


def check_aggregation(recipe: Recipe) -> None:
    """Raise RecipeError if the examples are not ranked by what is to be explained."""
    if recipe.explain.aggregation not in recipe.examples.aggregations:
        raise RecipeError(
            f"explain.aggregation = {recipe.explain.aggregation!r} is not among examples.aggregations = "
            f"{list(recipe.examples.aggregations)}; explain by one of these"
        )


def _make_lexical(run: Run, stage: Stage) -> Stage:
    source = examples.open_stage(run).require()
    stage.begin()
    stage.shards = []
    counts = Counter[bool]()
    with atomic_path(stage.path / EXPLANATIONS) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in _explanations(run, source.path):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            counts[row["explanation"] is not None] += 1
    stage.add_shard(EXPLANATIONS, counts.total())
    stage.finish(explained=counts[True], unexplained=counts[False])
    return stage


def _explanations(run: Run, folder: Path) -> Iterator[dict[str, Any]]:
    """One object for each latent, in order."""
    recipe = run.recipe.explain
    fired = pq.read_table(folder / tables.LATENTS, columns=["fire_count"])["fire_count"].to_numpy()
    with progress.progress("explain", len(fired), "latents") as advance:
        for batch in lexicons.batches(run, [recipe.aggregation, *DRAWN]):
            for latent in batch.latents.tolist():
                explanation = batch.lexicon.explain(latent, batch.examples.get(latent, []), recipe.terms)
                if fired[latent] == 0:
                    explanation = explanation._replace(reason=DEAD)
                yield _row(latent, explanation, recipe.aggregation)
                advance(1)


def _row(latent: int, explanation: Explanation, aggregation: str) -> dict[str, Any]:
    """What `explanations.jsonl` says of a latent."""
    return {
        "latent": latent,
        "explanation": explanation.text,
        "certainty": None if explanation.certainty is None else round(explanation.certainty, 4),
        "provider": "lexical",
        "reason": explanation.reason,
        "terms": [term._asdict() for term in explanation.terms],
        "provenance": {"aggregation": aggregation, "held_examples": explanation.held},
    }
