"""The latents at every token of a text, as a table that stays aligned at 80 columns."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from monosem.app.text import printable
from monosem.completion import ActiveLatent, WrittenToken
from monosem.interpret.cards import visible

NOTE = "values, and shares of the latent's maximum, are those before any edit"
TOKEN_CELLS = 14
FIGURE_CELLS = {"latent": 6, "value": 5, "of max": 6}


def latents_table(tokens: Sequence[WrittenToken]) -> RenderableType:
    """One block of lines for each token: its latents, strongest first."""
    names = [printable(visible(one.token)) for one in tokens]
    width = min(TOKEN_CELLS, max(map(cell_len, ["token", *names])))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    table.add_column("token", justify="right", no_wrap=True, width=width, overflow="ellipsis")
    for name, cells in FIGURE_CELLS.items():
        table.add_column(name, justify="right", no_wrap=True, min_width=cells, max_width=cells)
    table.add_column("explanation", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("cert.", justify="right", no_wrap=True, width=5)
    for name, one in zip(names, tokens, strict=True):
        shown = Text(name, style="bold")
        if not one.latents:
            table.add_row(shown, "", "", "", Text("none: an attention sink", style="dim"), "")
        for place, active in enumerate(one.latents):
            table.add_row(shown if place == 0 else "", *_cells(active))
    return Group(table, Text(NOTE, style="dim"))


def _cells(active: ActiveLatent) -> list[Text]:
    explanation = " ".join((active.explanation or "(no explanation)").split())
    return [
        Text(str(active.latent)),
        Text(f"{active.value:#.3g}".rstrip("."), style="dim"),
        Text("" if active.share is None else f"{100 * active.share:.0f} %", style="dim"),
        Text(explanation, style="" if active.explanation else "dim"),
        Text("" if active.certainty is None else f"{active.certainty:.2f}", style="dim"),
    ]
