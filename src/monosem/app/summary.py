"""The end of a command: what was made, how good it is, what it looks like, and what to try next."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from monosem.interpret import cards, terminal
from monosem.interpret.cards import Card, visible
from monosem.run import Run, Stage

SHOWN_LATENTS = 3
SHOWN_SENTENCES = 3
FLUENT = 3.0  # a steered text's perplexity, at most, in multiples of the plain one's
READABLE_DENSITY = (1e-4, 2e-2)  # fires often enough to show a pattern, seldom enough to be specific


def show(run: Run, made: Mapping[str, Stage], *, as_json: bool) -> None:
    """Print the result of the stages that a command made or found complete."""
    console = Console(highlight=False)
    if as_json:
        print(json.dumps(_as_json(run, made)))
    elif "report" in made and len(made) > 1:
        console.print(_metrics(run))
        _show_latents(console, run)
        _show_steering(console, run)
        _show_next(console, run)
    elif "evaluate" in made:
        console.print(_metrics(run))
    elif "report" in made:
        print(run.path / "report.html")


def _as_json(run: Run, made: Mapping[str, Stage]) -> dict[str, Any]:
    """`evaluate` prints its figures themselves; the others their counts."""
    if list(made) == ["evaluate"]:
        return evaluation(run)
    counts = {verb: stage.manifest.counts for verb, stage in made.items()}
    return {"run": str(run.path), "stages": counts}


def evaluation(run: Run) -> dict[str, Any]:
    """The run's `evaluation.json`."""
    return json.loads((run.folder("evaluation") / "evaluation.json").read_text(encoding="utf-8"))


def _metrics(run: Run) -> Table:
    """The SAE's figures beside its baselines, each without and with attention sinks."""
    found = evaluation(run)
    fitted = {
        f"PCA, {figures['components']}" if name == "pca" else name: figures
        for name, figures in found["baselines"].items()
        if name != "random_sae"
    }
    columns = {
        "SAE": found,
        "random SAE": found["baselines"]["random_sae"],
        **fitted,
        "SAE, all tokens": found["all_tokens"],
    }
    places = " to ".join(run.recipe.trained_on)
    title = f"{run.path.name}: {places} of {run.recipe.model.source}, on held-out sentences"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(min_width=26)
    for name in columns:
        table.add_column(name, justify="right")
    for key, label in {
        "fvu": "variance unexplained (FVU)",
        "l0": "active latents (L0)",
        "cosine": "cosine",
        "ce_recovered_zero": "CE recovered, against zero",
        "ce_recovered_mean": "CE recovered, against mean",
        "kl_recovered_zero": "KL recovered, against zero",
    }.items():
        table.add_row(label, *(_figure(column.get(key)) for column in columns.values()))
    window = found["dead_window_tokens"]
    table.add_row(f"dead in {window:,} activations", f"{100 * found['dead_fraction']:.2f} %", "", "", "")
    table.add_row("dense (fires on > 10 %)", f"{100 * found['dense_fraction']:.2f} %", "", "", "")
    return table


def _show_latents(console: Console, run: Run) -> None:
    console.print("\n[bold]Three latents[/bold]")
    for card in _readable(run):
        console.print(terminal.show_card(card, SHOWN_SENTENCES))


def _readable(run: Run) -> list[Card]:
    """The latents whose explanations are most certain among those of middling density, no two of one first word."""
    statistics = cards.read_statistics(run.path)
    density = statistics["density"].to_pylist()
    low, high = READABLE_DENSITY
    explained = [row for row in cards.read_explanations(run.path) if row["explanation"] is not None]
    candidates = [row for row in explained if low <= density[row["latent"]] <= high]
    candidates.sort(key=lambda row: (-(row["certainty"] or 0.0), row["latent"]))
    chosen: list[int] = []
    words: set[str] = set()
    for row in candidates:
        first = row["explanation"].split()[0]
        if first not in words and len(chosen) < SHOWN_LATENTS:
            chosen.append(row["latent"])
            words.add(first)
    shown = cards.cards(run.path, chosen, most=SHOWN_SENTENCES)
    return [card._replace(examples={"max": card.examples.get("max", [])}) for card in shown]


def _show_steering(console: Console, run: Run) -> None:
    steering = evaluation(run)["steering"]
    shown = _telling(steering["latents"])
    if shown is None:
        return
    console.print(
        "\n[bold]Steering[/bold]  adding a latent's own maximum moves its tokens more than every random direction of "
        f"equal norm for {steering['wins']} of {steering['of']} latents. Latent {shown['latent']}, for one:"
    )
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    table.add_row("its tokens", "  ".join(visible(token) for token in shown["top_tokens"][:8]))
    table.add_row("their probability", f"x {shown['factor']:.1f}; best random direction x {shown['controls_max']:.2f}")
    for name in ("plain", "steered"):
        text = shown["sample_prompt"] + shown[f"sample_{name}"]
        table.add_row(name, Text(" ".join(text.split())))
    console.print(table)


def _telling(latents: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The steered latent to show: of those whose words enter a text that stays fluent, the one of largest effect."""

    def tells(row: dict[str, Any]) -> bool:
        words = [token for token in row["top_tokens"][:5] if token.strip().isalpha()]
        enters = any(word in row["sample_steered"] and word not in row["sample_plain"] for word in words)
        return enters and row["perplexity_steered"] < FLUENT * row["perplexity_clean"]

    return max((row for row in latents if tells(row)), key=lambda row: row["factor"], default=next(iter(latents), None))


def _show_next(console: Console, run: Run) -> None:
    shown = _telling(evaluation(run)["steering"]["latents"])
    latent = shown["latent"] if shown else 0
    console.print(f"\n[bold]report[/bold]  {run.path / 'report.html'}\n\nTry next:")
    for command in (
        f"monosem search {run.path} music",
        f"monosem show {run.path} {latent}",
        f'monosem complete {run.path} "I think that" --steer {latent}=1max --show-latents',
    ):
        console.print(f"  {command}", markup=False, soft_wrap=True)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
