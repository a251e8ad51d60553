"""The stage `report`: `report.html`, one self-contained page of a run, for a browser without a server.

Flow: figures of `evaluation/`, curves of `metrics.jsonl` and `tracking/`, and the cards of some latents, spread over
density and score, become one object of JSON and a few tables; a Jinja2 template with autoescape puts style, script and
charts inline. The page asks for nothing outside itself and holds no time: the same run gives the same bytes. Reads only
what stages wrote.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
from markupsafe import Markup
from numpy.typing import NDArray

from monosem import progress
from monosem.atomic import write_text
from monosem.charts import density_chart, training_charts
from monosem.evaluate import stage as evaluation
from monosem.evaluate.report_metrics import figure, metric_tables
from monosem.interpret import cards, explain
from monosem.interpret.cards import Card, Shown
from monosem.interpret.score import shown as scores
from monosem.interpret.score import stage as score_stage
from monosem.recipe import AGGREGATIONS, Recipe
from monosem.run import Run, Stage
from monosem.train import tracking
from monosem.train.tracking_charts import tracking_charts

PAGE = "report.html"
ASSETS = Path(__file__).parent / "report_page"
STRATA = 20  # ranges of density, of equally many latents, that cards are drawn from alike


def open_stage(run: Run) -> Stage:
    """The stage's folder; writes nothing.

    Raises:
        RunError: its files were made with another recipe.
    """
    upstream = [explain.open_stage(run), evaluation.open_stage(run), score_stage.open_stage(run)]
    return run.stage(run.folder("report"), run.recipe.report.fingerprint_part(), upstream)


def make(run: Run) -> Stage:
    """Write `report.html` into the run folder.

    Raises:
        RunError: the run has not been explained or evaluated.
    """
    stage = open_stage(run)
    if stage.complete:
        return stage
    explain.open_stage(run).require()
    evaluation.open_stage(run).require()
    score_stage.open_stage(run).require()
    stage.begin()
    stage.shards = []
    page = render(run.path, run.recipe)
    write_text(run.path / PAGE, page)
    stage.add_shard(f"../{PAGE}", rows=1)
    stage.finish(megabytes=round(len(page.encode()) / 1e6, 3))
    return stage


def render(run_folder: Path, recipe: Recipe) -> str:
    """The page of a run, as HTML.

    Raises:
        RunError: the run has no examples.
    """
    measured = _evaluation(run_folder)
    statistics = cards.read_statistics(run_folder)
    steering = measured.get("steering") or {}
    first = [row["latent"] for row in steering.get("latents", [])]
    certainty = {row["latent"]: row.get("certainty") for row in cards.read_explanations(run_folder)}
    shown = choose(statistics, certainty, first, recipe.report.latents)
    density = statistics["density"].to_numpy()
    dead = int((density == 0).sum())
    charts = training_charts(progress.read_metrics(run_folder / "metrics.jsonl"))
    charts += tracking_charts(tracking.read(run_folder / "tracking"), recipe.train.dead_window)
    if dead < len(density):
        charts.append(density_chart(density[density > 0], dead))
    charts += scores.charts(run_folder)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        recipe=recipe,
        named=_named,
        latents=len(density),
        live=len(density) - dead,
        dead=dead,
        metrics=metric_tables(measured),
        charts=[chart._replace(svg=Markup(chart.svg)) for chart in charts],
        steering=steering,
        figure=figure,
        visible=cards.visible,
        shown=shown,
        style=Markup((ASSETS / "report.css").read_text(encoding="utf-8")),
        script=Markup((ASSETS / "report.js").read_text(encoding="utf-8")),
        data=json_for_script([_compact(card) for card in cards.cards(run_folder, shown, recipe.report.sentences)]),
    )


def choose(statistics: pa.Table, certainty: Mapping[int, float | None], first: Sequence[int], count: int) -> list[int]:
    """Up to `count` live latents, ascending: those in `first`, and a fair picture of the others.

    The live latents are cut into ranges of density of equal size; from each, evenly from the most to the least certain
    explanation. Nothing is chosen for looking good.
    """
    density = statistics["density"].to_numpy()
    always = dict.fromkeys(first[:count])
    live = [
        latent for latent in np.argsort(density, kind="stable").tolist() if density[latent] > 0 and latent not in always
    ]
    wanted = min(count - len(always), len(live))
    strata = [part.tolist() for part in np.array_split(np.array(live, dtype=np.int64), STRATA)]
    chosen: list[int] = []
    for number, stratum in enumerate(strata):
        share = wanted * (number + 1) // STRATA - wanted * number // STRATA
        ranked = sorted(stratum, key=lambda latent: (-(certainty.get(latent) or 0.0), latent))
        chosen += [ranked[i] for i in _evenly(len(ranked), share)]
    spare = sorted(set(live) - set(chosen))  # where a range is smaller than its share
    return sorted([*always, *chosen, *spare[: wanted - len(chosen)]])


def _evenly(size: int, count: int) -> NDArray[np.int64]:
    """`count` of the numbers below `size`, all different, evenly spaced from the first to the last."""
    return np.unique(np.linspace(0, size - 1, min(size, count)).round().astype(np.int64)) if size else np.arange(0)


def json_for_script(value: Any) -> Markup:
    """JSON that may stand inside a script element: nothing in it can close the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _named(source: str) -> str:
    """A source as a reader may see it: of a file on this machine only its name."""
    return Path(source).name if Path(source).is_absolute() else source


def _evaluation(run_folder: Path) -> dict[str, Any]:
    path = run_folder / "evaluation" / "evaluation.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _compact(card: Card) -> dict[str, Any]:
    """A card as the page's script reads it; what is not there is left out."""
    said = {
        "latent": card.latent,
        "explanation": card.explanation,
        "reason": card.reason,
        "certainty": card.certainty,
        "provider": card.provider,
        "density": _round(card.density),
        "max": _round(card.max),
        "mean": _round(card.mean),
        "fires": card.fire_count,
        "sentences": card.sentence_count,
        "score": None if card.output_score is None else _round(card.output_score),
        "raised": [cards.visible(token) for token in card.raised[:10]],
        "lowered": [cards.visible(token) for token in card.lowered[:10]],
        "warnings": card.warnings,
        "examples": {
            name: [_pieces(one) for one in card.examples[name]] for name in AGGREGATIONS if name in card.examples
        },
    }
    return {key: value for key, value in said.items() if value not in (None, "", [])}


def _pieces(example: Shown) -> dict[str, Any]:
    """A sentence as pieces: a plain string, or a string with the value of the token that it is."""
    pieces = [text if value is None else [text, _round(value)] for text, value in cards.pieces(example)]
    origin = " · ".join(part for part in (example.title, example.label) if part)
    return {"value": _round(example.value), "pieces": pieces, **({"origin": origin} if origin else {})}


def _round(value: float) -> float:
    """Four digits: what a reader can use."""
    return float(f"{value:.4g}")
