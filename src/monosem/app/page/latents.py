"""What a run's files say of its latents: the figures of all, and the card of one.

Footers, the line index and the figures are kept until their files change; a card reads the row groups of its latent
and of its sentences, nothing else. What a stage has not written is left out, with the command that makes it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from monosem.app.page import annotations
from monosem.app.page.annotations import Annotation
from monosem.app.page.explanations import Explanations, best
from monosem.app.page.kept import Kept
from monosem.app.page.missing import command
from monosem.app.page.relations import RelationFiles, Relations
from monosem.app.page.scores import ScoreFiles
from monosem.app.page.sorted_file import SortedFile, read_columns
from monosem.app.page.tracks import Tracks
from monosem.errors import RunError, SaeError
from monosem.interpret import stability, tables
from monosem.interpret.cards import DENSE, EXPLANATIONS, WEAK, Shown, shown
from monosem.interpret.score import shown as grades

WAYS = ("max", "mean", "last", "quantile", "random")  # of choosing examples, in the order they are shown
EXAMPLE = ("aggregation", "rank", "sentence", "value", "positions", "values")
SENTENCE = ("text", "title", "label", "starts", "ends")
OUTPUT = ("output_score", "raised", "raised_by", "lowered", "lowered_by")
Floats = NDArray[np.float64]


class Figures(NamedTuple):
    """`latents.parquet` of the examples: one entry a latent, [n]."""

    fire_count: NDArray[np.int64]
    density: Floats
    max: Floats
    mean: Floats
    sentence_count: NDArray[np.int64]

    @property
    def n(self) -> int:
        return len(self.density)


class Explained(NamedTuple):
    """One explanation of a latent."""

    text: str | None
    certainty: float | None
    provider: str
    reason: str | None
    """Why there is no text."""
    provenance: dict[str, Any]


class Card(NamedTuple):
    """One latent."""

    latent: int
    n: int
    fire_count: int
    density: float
    max: float
    mean: float
    sentence_count: int
    annotation: Annotation | None
    explanations: list[Explained]
    """The best first."""
    examples: dict[str, list[Shown]]
    """By aggregation, best first."""
    more: bool
    """Whether there are more examples than these."""
    output_score: float | None
    raised: list[tuple[str, float | None]]
    """Tokens that its direction makes likelier, strongest first, with what it adds to their logits."""
    lowered: list[tuple[str, float | None]]
    values: list[float]
    """Where it fires: in sentences drawn at random, else in its example sentences."""
    values_from: str
    """Which sentences these are."""
    scores: list[grades.Figure]
    steered: grades.Steered | None
    """What it does to texts."""
    relations: Relations
    over_training: list[tuple[int, float]]
    """(step, density) at the end of each interval."""
    warnings: list[str]
    missing: dict[str, str]
    """What is not there, and the command that makes it."""


class LatentFiles:
    """The files of one run folder, as far as they are there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        examples = folder / "examples"
        self._figures = Kept(examples / tables.LATENTS, _figures)
        self._examples = Kept(examples / tables.EXAMPLES, lambda path: SortedFile(path, "latent"))
        self._sentences = Kept(examples / tables.SENTENCES, lambda path: SortedFile(path, "sentence"))
        self._output = Kept(folder / "evaluation" / tables.LATENTS, lambda path: SortedFile(path, "latent"))
        self._output_scores = Kept(folder / "evaluation" / tables.LATENTS, _output_scores)
        self._explanations = Kept(folder / "explanations" / EXPLANATIONS, Explanations)
        self._relations = RelationFiles(folder)
        self.scores = ScoreFiles(folder)
        self.tracks = Tracks(folder / "tracking")
        self._seeds = Kept(folder / stability.FOLDER / tables.LATENTS, lambda path: SortedFile(path, "latent"))
        self._annotations = Kept(folder / annotations.ANNOTATIONS, annotations.read)

    def figures(self) -> Figures:
        """The figures of all latents.

        Raises:
            RunError: the run has no examples, or the file is damaged.
        """
        found = self._figures.get()
        if found is None:
            stage = "examples" if (self.folder / "codes").exists() else "run"  # and what comes before
            raise RunError(f"{self.folder.name} has no examples yet; make them with: {command(self.folder, stage)}")
        return found

    def check(self, latent: int) -> None:
        """Raise SaeError where there is no such latent."""
        n = self.figures().n
        if not 0 <= latent < n:
            raise SaeError(f"latent {latent} is out of range: {self.folder.name} has latents 0 to {n - 1}")

    @property
    def explanations(self) -> Explanations | None:
        """None where the stage has not been made."""
        return self._explanations.get()

    @property
    def annotations(self) -> dict[int, Annotation]:
        return self._annotations.get() or {}

    def text(self, latent: int) -> str | None:
        """What is said of a latent, people before machines."""
        note = self.annotations.get(latent)
        if note is not None and note.explanation:
            return note.explanation
        said = best(self.explanations.of(latent)) if self.explanations else None
        return said["explanation"] if said else None

    def output_scores(self) -> Floats:
        """[n], NaN where a latent has none or the run has not been evaluated."""
        scores = np.full(self.figures().n, np.nan)
        found = self._output_scores.get()
        if found is not None:
            scores[found[0]] = found[1]
        return scores

    def card(self, latent: int, most: int) -> Card:
        """The card of a latent, with at most `most` sentences by each aggregation.

        Raises:
            SaeError: there is no such latent.
            RunError: the run has no examples, or a file is damaged.
        """
        figures = self.figures()
        self.check(latent)
        missing: dict[str, str] = {}
        said = self._said(latent, missing)
        output = self._output_of(latent, missing)
        rows = self._example_rows(latent)
        relations = self._relations.of(latent, missing)
        scores = self.scores.of(latent, missing)
        values, values_from = _values(rows)
        return Card(
            latent=latent,
            n=figures.n,
            fire_count=int(figures.fire_count[latent]),
            density=float(figures.density[latent]),
            max=float(figures.max[latent]),
            mean=float(figures.mean[latent]),
            sentence_count=int(figures.sentence_count[latent]),
            annotation=self.annotations.get(latent),
            explanations=said,
            examples=self._shown([row for row in rows if row["rank"] < most]),
            more=any(row["rank"] >= most for row in rows),
            output_score=output.get("output_score"),
            raised=_weighted(output, "raised"),
            lowered=_weighted(output, "lowered"),
            values=values,
            values_from=values_from,
            scores=scores,
            steered=self.scores.steered(latent),
            relations=relations,
            over_training=self.tracks.density(latent),
            warnings=[
                *_warnings(figures, latent, said),
                *_told_by(relations),
                *self._told_by_seeds(latent, live=figures.fire_count[latent] > 0),
                *grades.warnings(scores),
            ],
            missing=missing,
        )

    def _told_by_seeds(self, latent: int, *, live: bool) -> list[str]:
        """What SAEs of other seeds say, where the run has been compared with any."""
        file = self._seeds.get()
        if file is None or not live or stability.current(self.folder) is None:
            return []
        found = [stability.Stability(row["cosines"]).warning for row in file.rows([latent]).to_pylist()]
        return [warning for warning in found if warning]

    def _said(self, latent: int, missing: dict[str, str]) -> list[Explained]:
        explanations = self.explanations
        if explanations is None:
            missing["explanation"] = command(self.folder, "explanations")
            return []
        rows = explanations.of(latent)
        first = best(rows)
        rows.sort(key=lambda row: row is not first)
        return [
            Explained(
                row.get("explanation"),
                row.get("certainty"),
                row.get("provider", ""),
                row.get("reason"),
                {key: value for key, value in (row.get("provenance") or {}).items() if value is not None},
            )
            for row in rows
        ]

    def _output_of(self, latent: int, missing: dict[str, str]) -> dict[str, Any]:
        file = self._output.get()
        if file is None:
            missing["tokens that it raises and lowers"] = command(self.folder, "evaluation")
            return {}
        there = [name for name in OUTPUT if name in file.columns]
        rows = file.rows([latent], there).to_pylist()
        return rows[0] if rows else {}

    def _example_rows(self, latent: int) -> list[dict[str, Any]]:
        file = self._examples.get()
        return [] if file is None else file.rows([latent], EXAMPLE).to_pylist()

    def _shown(self, rows: Sequence[dict[str, Any]]) -> dict[str, list[Shown]]:
        file = self._sentences.get()
        if file is None:
            return {}
        texts = {row["sentence"]: row for row in file.rows([row["sentence"] for row in rows], SENTENCE).to_pylist()}
        found: dict[str, list[Shown]] = {}
        for row in rows:
            if row["sentence"] in texts:
                found.setdefault(row["aggregation"], []).append(shown(row, texts[row["sentence"]]))
        return {way: found[way] for way in sorted(found, key=_place)}


def _place(way: str) -> tuple[int, str]:
    return WAYS.index(way) if way in WAYS else len(WAYS), way


def _figures(path: Path) -> Figures:
    try:
        table = read_columns(path, Figures._fields)
    except (pa.ArrowInvalid, OSError) as error:
        raise RunError(f"{path}: damaged ({error}); make it again with --redo examples") from None
    return Figures(*(table[name].to_numpy() for name in Figures._fields))


def _output_scores(path: Path) -> tuple[NDArray[np.int64], Floats]:
    table = read_columns(path, ["latent", "output_score"])
    return table["latent"].to_numpy(), table["output_score"].to_numpy()


def _values(rows: Sequence[dict[str, Any]]) -> tuple[list[float], str]:
    """The latent's values at the tokens of each sentence, every sentence once, and what the sentences are."""
    drawn = [row for row in rows if row["aggregation"] == "random"]
    chosen = {row["sentence"]: row["values"] for row in drawn or rows}
    kind = "sentences drawn at random" if drawn else "examples, the strongest there are"
    return [value for values in chosen.values() for value in values], f"{len(chosen)} {kind}"


def _weighted(output: dict[str, Any], name: str) -> list[tuple[str, float | None]]:
    tokens = output.get(name) or []
    weights: Sequence[float | None] = output.get(f"{name}_by") or [None] * len(tokens)
    return list(zip(tokens, weights, strict=False))


def _warnings(figures: Figures, latent: int, said: Sequence[Explained]) -> list[str]:
    found = []
    if figures.fire_count[latent] == 0:
        found.append("dead: it never fires on the stored activations")
    if figures.density[latent] > DENSE:
        found.append(f"dense: it fires on {100 * figures.density[latent]:.0f} % of all tokens")
    certainty = said[0].certainty if said else None
    if certainty is not None and certainty < WEAK:
        found.append("weak: its explanation hardly tells held-out sentences from others")
    return found


def _told_by(relations: Relations) -> list[str]:
    """Warnings that other stages found."""
    if relations.token_only is None:
        return []
    return [f"token-only: it fires on “{relations.token_only}”, whatever the context"]
