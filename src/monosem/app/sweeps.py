"""The end of a sweep on the terminal: its table, the front marked, and where the files are."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

COLUMNS = {"l0": "L0", "fvu": "FVU", "ce_recovered_zero": "CE rec. (zero)", "kl": "KL", "dead": "dead"}


def show(path: Path, rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print the rows of a sweep's table.

    Args:
        path: the run folder that the sweep is part of.
        rows: as `monosem.sweep.table.rows` gives them.
    """
    if as_json:
        print(json.dumps(list(rows)))
        return
    table = Table(box=box.SIMPLE_HEAD, caption="* no other SAE has both a lower L0 and a lower FVU")
    table.add_column("SAE", overflow="fold")
    for label in COLUMNS.values():
        table.add_column(label, justify="right")
    for row in sorted(rows, key=lambda row: (row["fvu"] is None, row["l0"] or 0, row["fvu"] or 0)):
        figures = [_figure(row[key]) for key in COLUMNS] if row["fvu"] is not None else [row["note"]]
        table.add_row(f"{'*' if row['pareto'] else ' '} {row['name']}", *figures)
    console = Console(highlight=False)
    console.print(table)
    best = min((row for row in rows if row["fvu"] is not None), key=lambda row: row["fvu"], default=None)
    console.print(f"  plot and table: {path}/sweep/pareto.png, table.csv, table.json", soft_wrap=True)
    if best is not None:
        console.print(f"  go on with one: monosem run {path}/sweep/{best['name']}", soft_wrap=True)


def _figure(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
