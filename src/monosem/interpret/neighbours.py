"""Views of a finished stage `coactivation`: which latents stand beside one, and why.

Pure functions of a run folder, as in `cards`. Knows no model, no SAE and no way of showing things.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from monosem.errors import RunError, SaeError
from monosem.interpret import cards, tables
from monosem.interpret.linkage import ALONE
from monosem.interpret.tables import CLUSTERS, COSINES, PARTNERS

Measure = Literal["jaccard", "conditional", "reverse", "pmi", "cosine"]
MEASURES: tuple[Measure, ...] = get_args(Measure)


class Neighbour(NamedTuple):
    """A latent beside another. A figure is None where it is not among the best of its kind, which the stage keeps."""

    latent: int
    explanation: str | None
    count: int | None
    """Tokens on which both fire."""
    conditional: float | None
    """Share of the other one's tokens on which this one fires too."""
    reverse: float | None
    """Share of this one's tokens on which the other one fires too."""
    jaccard: float | None
    pmi: float | None
    cosine: float | None
    """Of the decoder rows."""


class Neighbourhood(NamedTuple):
    """The neighbours of one latent."""

    latent: int
    explanation: str | None
    fire_count: int
    by: Measure
    neighbours: list[Neighbour]
    """Highest first by that measure."""
    cluster_by_coactivation: list[int]
    """The other latents of its cluster; empty where it is alone."""
    cluster_by_cosine: list[int]


def neighbourhood(run_folder: Path, latent: int, by: Measure = "jaccard", most: int = 10) -> Neighbourhood:
    """Up to `most` neighbours of a latent.

    Raises:
        SaeError: there is no such latent.
        RunError: the run has no examples or no co-activation.
    """
    statistics = cards.read_statistics(run_folder)
    if not 0 <= latent < statistics.num_rows:
        raise SaeError(f"latent {latent} is out of range: {run_folder} has latents 0 to {statistics.num_rows - 1}")
    folder = run_folder / "coactivation"
    if not (folder / CLUSTERS).exists():
        raise RunError(f"{folder}: no finished co-activation; make it with: monosem coactivation {run_folder}")
    figures: dict[int, dict[str, Any]] = {}
    for row in tables.read_sorted(folder / PARTNERS, "latent", [latent]).to_pylist():
        figures.setdefault(row["partner"], {}).update(row)
    for row in tables.read_sorted(folder / COSINES, "latent", [latent]).to_pylist():
        figures.setdefault(row["neighbour"], {})["cosine"] = row["cosine"]
    ranked = [other for other, row in figures.items() if row.get(by) is not None]
    ranked = sorted(ranked, key=lambda other: (-figures[other][by], other))[:most]
    said = {row["latent"]: row["explanation"] for row in cards.read_explanations(run_folder, {latent, *ranked})}
    clusters = pq.read_table(folder / CLUSTERS)
    return Neighbourhood(
        latent,
        said.get(latent),
        statistics["fire_count"][latent].as_py(),
        by,
        [_neighbour(other, said.get(other), figures[other]) for other in ranked],
        _others(clusters, "by_coactivation", latent),
        _others(clusters, "by_cosine", latent),
    )


def _neighbour(other: int, explanation: str | None, figures: dict[str, Any]) -> Neighbour:
    return Neighbour(other, explanation, *(figures.get(name) for name in Neighbour._fields[2:]))


def _others(clusters: pa.Table, column: str, latent: int) -> list[int]:
    """The other members of a latent's cluster."""
    numbers = clusters[column].to_numpy()
    if numbers[latent] == ALONE:
        return []
    return [int(other) for other in (numbers == numbers[latent]).nonzero()[0] if other != latent]
