"""The stage `explanations`: says in words what each latent reacts to, one JSON object a latent.

Flow: `lexical` makes a term index of the example sentences and a part of the corpus, evenly spread, and explains latent
by latent; any other provider is asked (`Asking`). A latent that cannot be explained stands in the file as well, with
`explanation` null and the reason.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from monosem import progress
from monosem.atomic import atomic_path
from monosem.corpus.sentences import Sentences
from monosem.errors import RecipeError, RunError
from monosem.interpret import examples, tables
from monosem.interpret.asking import DEAD, Asking
from monosem.interpret.cards import EXPLANATIONS
from monosem.interpret.lexical import Example, Explanation, Lexicon
from monosem.interpret.ngrams import TermIndex
from monosem.interpret.prompts import Prompter
from monosem.interpret.providers.ledger import Ledger
from monosem.interpret.providers.prices import OWN_MACHINE
from monosem.lm.source import open_tokenizer
from monosem.recipe import Recipe
from monosem.run import Run, Stage, read_manifest

CORPUS_SENTENCES = 200_000  # at most, that stand for the whole corpus
LATENTS_AT_ONCE = 2048


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
    folder = run.folder("explanations")
    if redo in (None, "evaluate", "report") or (manifest := read_manifest(folder)) is None:
        return
    if (
        any(event.kind == "intent" for event in Ledger(folder).events)
        and manifest.recipe["provider"] not in OWN_MACHINE
    ):
        raise RunError(
            f"{folder}: holds answers that {manifest.recipe['provider']} was asked for, and --redo {redo} would delete "
            f"them; move the folder away first, or give the new run its own --name"
        )


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
    explained = 0
    with atomic_path(stage.path / EXPLANATIONS) as temporary, temporary.open("w", encoding="utf-8") as file:
        rows = list(_explanations(run, source.path))
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            explained += row["explanation"] is not None
    stage.add_shard(EXPLANATIONS, len(rows))
    stage.finish(explained=explained, unexplained=len(rows) - explained)
    return stage


def _explanations(run: Run, folder: Path) -> Iterator[dict[str, Any]]:
    """One object for each latent, in order."""
    recipe = run.recipe
    latents = pq.read_table(folder / tables.LATENTS, columns=["fire_count"])["fire_count"].to_numpy()
    lexicon, place = _lexicon(run, pq.read_table(folder / tables.SENTENCES))
    with progress.progress("explain", len(latents), "latents") as advance:
        for start in range(0, len(latents), LATENTS_AT_ONCE):
            numbers = np.arange(start, min(start + LATENTS_AT_ONCE, len(latents)))
            found = read_examples(folder, numbers, recipe.explain.aggregation, place)
            for latent in numbers.tolist():
                explanation = lexicon.explain(latent, found.get(latent, []), recipe.explain.terms)
                if latents[latent] == 0:
                    explanation = explanation._replace(reason=DEAD)
                yield _row(latent, explanation, recipe.explain.aggregation)
            advance(len(numbers))


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


def read_examples(
    folder: Path, latents: NDArray[np.int64], aggregation: str, place: dict[int, int]
) -> dict[int, list[Example]]:
    """The examples of some latents, best first; `place` gives a sentence's number in the index."""
    table = tables.read_sorted(folder / tables.EXAMPLES, "latent", latents)
    names = ("latent", "aggregation", "sentence", "positions", "values")
    found: dict[int, list[Example]] = {}
    for latent, by, sentence, positions, values in zip(*(table[name].to_pylist() for name in names), strict=True):
        if by == aggregation:
            found.setdefault(latent, []).append(Example(place[sentence], positions, values))
    return found


def _lexicon(run: Run, shown: pa.Table) -> tuple[Lexicon, dict[int, int]]:
    """The lexicon of the corpus and the example sentences, and each sentence's place in it."""
    source = Sentences(run.folder("sentences"))
    step = max(1, -(-len(source) // CORPUS_SENTENCES))
    numbers = np.arange(0, len(source), step)
    others = np.setdiff1d(numbers, shown["sentence"].to_numpy())
    other_texts = source.take(others, columns=["text"])["text"].to_pylist()
    texts = shown["text"].to_pylist() + other_texts
    spans = list(zip(shown["starts"].to_pylist(), shown["ends"].to_pylist(), strict=True))
    if other_texts:
        tokenizer = open_tokenizer(run.recipe.model)
        read = [tokenizer.spans(text) for text in other_texts]
        most = run.recipe.corpus.max_tokens
        spans += [(found.starts[:most], found.ends[:most]) for found in read]
    sentence = np.concatenate([shown["sentence"].to_numpy(), others])
    place = {number: i for i, number in enumerate(sentence.tolist())}
    return Lexicon(TermIndex.build(texts, spans), sentence % step == 0, run.recipe.seed), place
