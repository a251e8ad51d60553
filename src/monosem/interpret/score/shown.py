"""The scores of a run as readers see them: a latent's figures beside their baselines, and how all latents lie.

Reads only what the stage `score` wrote; a run that has not been graded has nothing to show.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from monosem.interpret.score import rows
from monosem.interpret.score.rows import Row

if TYPE_CHECKING:  # it needs matplotlib; who only reads figures does not
    from monosem.charts import Chart

RESULT = "scores.json"
SHOWN = {
    ("lexical", "balanced_accuracy"): "terms, balanced accuracy",
    ("lexical", "auroc"): "terms, AUROC",
    ("lexical_tokens", "f1"): "terms at tokens, F1",
    ("n2g", "precision"): "patterns, precision",
    ("n2g", "recall"): "patterns, recall",
    ("n2g", "f1"): "patterns, F1",
    ("n2g_ablated", "f1"): "ablated patterns, F1",
    ("detection", "balanced_accuracy"): "detection, balanced accuracy",
    ("fuzzing", "balanced_accuracy"): "fuzzing, balanced accuracy",
    ("intruder", "accuracy"): "intruder, accuracy",
    ("simulation", "correlation"): "simulation, correlation",
    ("surprisal", "auroc"): "surprisal, AUROC",
    ("intervention", "gain"): "intervention, nats",
    ("meanings_agree", "agreement"): "meanings agree, judged",
    ("agreement", "balanced_accuracy"): "agreement with output",
}
"""The figures that a card shows, in its order; the files have more."""
OF_OUTPUT = SHOWN["agreement", "balanced_accuracy"]  # of the latent, not of its explanation
PLOTTED = (("lexical", "balanced_accuracy"), ("n2g", "f1"))


class Figure(NamedTuple):
    """One figure of one latent."""

    label: str
    value: float
    low: float | None
    high: float | None
    shuffled: float | None
    shuffled_p95: float | None
    frequency: float | None
    random_sae: float | None
    """Mean over latents of an untrained SAE."""
    below_chance: bool
    beats: bool | None
    """Above the 95th percentile of its shuffled baseline."""


class Steered(NamedTuple):
    """What a latent does to texts, beside what it reacts to."""

    words: Sequence[str]
    """That texts under its direction hold more often than others."""
    meaning: str | None
    """What a judge says of these texts, if one was asked and answered."""
    certainty: float | None
    plain: str
    """The first text without it."""
    text: str
    """The same under its direction."""


def steered(run_folder: Path, latents: Sequence[int] | None = None) -> dict[int, Steered]:
    """Of those latents that the run's language model was steered by; None: of all of them."""
    found: dict[int, Steered] = {}
    path, judged = (run_folder / "scores" / name for name in ("model.json", "judged.json"))
    if read_result(run_folder / "scores" / RESULT) is None or not path.exists():
        return found
    meanings = json.loads(judged.read_text(encoding="utf-8")).get("meanings", {}) if judged.exists() else {}
    for one in json.loads(path.read_text(encoding="utf-8"))["latents"]:
        if latents is None or one["latent"] in latents:
            said = meanings.get(str(one["latent"]), {})
            texts = one["plain"][0], one["steered"][0]
            meaning, certainty = said.get("explanation"), said.get("certainty")
            found[one["latent"]] = Steered(one["output_meaning"], meaning, certainty, *texts)
    return found


def figures(run_folder: Path, latents: Sequence[int]) -> dict[int, list[Figure]]:
    """The figures of some latents; none where the run has not been graded."""
    result = read_result(run_folder / "scores" / RESULT)
    return {} if result is None else of_rows(rows.read(run_folder / "scores" / rows.SCORES, latents), result)


def of_rows(table: Iterable[Row], result: Mapping[str, Any]) -> dict[int, list[Figure]]:
    """The figures of rows of `scores.parquet`, by latent.

    Args:
        result: the object of `scores.json`, which knows what an untrained SAE reaches.
    """
    order = {key: place for place, key in enumerate(SHOWN)}
    there = [row for row in table if (row.score, row.figure) in order]
    found: dict[int, list[Figure]] = {}
    for row in sorted(there, key=lambda row: order[row.score, row.figure]):
        told = result["scores"].get(row.score, {}).get(row.figure, {})
        found.setdefault(row.latent, []).append(_figure(row, told.get("random_sae")))
    return found


def warnings(figures: Iterable[Figure]) -> list[str]:
    """What a card says where guessing does better than the explanation."""
    below = [figure.label for figure in figures if figure.below_chance and figure.label != OF_OUTPUT]
    return [f"below chance: guessing does better than its explanation by {'; '.join(below)}"] if below else []


def charts(run_folder: Path) -> "list[Chart]":
    """How the explanations of all latents do, over the best that shuffled ones reach."""
    from monosem.charts import distribution_chart

    result = read_result(run_folder / "scores" / RESULT)
    if result is None:
        return []
    table = rows.read(run_folder / "scores" / rows.SCORES)
    found = []
    for score, figure in PLOTTED:
        own, shuffled = (rows.values(table, score, figure, column) for column in ("value", "shuffled_p95"))
        if len(own) and len(shuffled):
            live, told = result["summary"]["live"], result["scores"][score][figure]
            share = 100 * told["beat_shuffled_p95"] / live
            text = f"{share:.0f} % of {live:,} live latents are above their own 95th percentile."
            label = SHOWN[score, figure]
            title = label[0].upper() + label[1:]
            found.append(distribution_chart(f"score-{score}", title, label, own, shuffled, text))
    return found


def _figure(row: Row, random: float | None) -> Figure:
    return Figure(
        SHOWN[row.score, row.figure],
        row.value,
        row.low,
        row.high,
        row.shuffled,
        row.shuffled_p95,
        row.frequency,
        random,
        row.below_chance,
        row.beats,
    )


def read_result(path: Path) -> dict[str, Any] | None:
    """The object of `scores.json`; None where the run has not been graded."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
