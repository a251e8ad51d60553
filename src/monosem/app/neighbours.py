"""The neighbours of a latent in the terminal: what `monosem neighbours` prints."""

import json
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from monosem.interpret.neighbours import Measure, Neighbour, Neighbourhood, neighbourhood
from monosem.run import Run

COLUMNS = {
    "jaccard": "jaccard",
    "conditional": "cond.",
    "reverse": "rev.",
    "pmi": "pmi",
    "cosine": "cos.",
    "count": "count",
}
"""Figures, and what their columns are called where a terminal of 80 cells must have room for the explanation."""
MEMBERS = 20  # of a cluster that are named


def show(run: Run, latent: int, by: Measure, most: int, *, as_json: bool) -> None:
    """Print the neighbours of a latent."""
    found = neighbourhood(run.path, latent, by, most)
    if as_json:
        print(json.dumps(found._asdict() | {"neighbours": [one._asdict() for one in found.neighbours]}))
    else:
        Console(highlight=False).print(view(found))


def view(found: Neighbourhood) -> RenderableType:
    """A latent's neighbours as a panel."""
    head = Text.assemble((f"latent {found.latent}  ", "bold"), found.explanation or "no explanation")
    parts: list[RenderableType] = [head]
    if found.fire_count == 0:
        parts.append(Text("! dead: it never fires on the stored activations", style="yellow"))
    parts.append(_table(found) if found.neighbours else Text(f"no neighbours by {found.by}", style="dim"))
    parts.append(_cluster("fires together with", found.cluster_by_coactivation))
    parts.append(_cluster("points the same way as", found.cluster_by_cosine))
    return Panel(Group(*parts), border_style="dim")


def _table(found: Neighbourhood) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("latent", justify="right")
    for name, short in COLUMNS.items():
        table.add_column(short, justify="right", no_wrap=True, style="bold" if name == found.by else "")
    table.add_column("explanation", ratio=1)
    for one in found.neighbours:
        table.add_row(str(one.latent), *(_figure(one, name) for name in COLUMNS), Text(one.explanation or "-"))
    return table


def _figure(one: Neighbour, name: str) -> str:
    value = getattr(one, name)
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def _cluster(what: str, members: Sequence[int]) -> Text:
    named = ", ".join(str(member) for member in members[:MEMBERS])
    more = f" and {len(members) - MEMBERS:,} more" if len(members) > MEMBERS else ""
    return Text(f"cluster, {what}: {named + more if members else 'none'}", style="dim")
