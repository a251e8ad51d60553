"""The end of a sweep: one table (`table.csv`, `table.json`) and one Pareto plot (`pareto.png`).

An SAE is on the front when no other has both a lower L0 and a lower FVU.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monosem.atomic import atomic_path, write_text
from monosem.sweep.members import Opened

FIGURES = ("l0", "fvu", "ce_recovered_zero", "ce_recovered_mean", "kl", "dead")
NOTED = 30  # SAEs whose names still fit on the plot


def rows(members: Sequence[Opened], figures: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each member: its name, its value on every axis, its figures, whether it is on the Pareto front."""
    made = []
    for member in members:
        found = figures.get(member.name, dict.fromkeys(FIGURES))
        row: dict[str, Any] = {"name": member.name, **member.member.values}
        row |= {key: found[key] for key in FIGURES}
        made.append(row)
    for row in made:
        row["pareto"] = row["fvu"] is not None and not any(_dominates(other, row) for other in made)
        row["note"] = "" if row["fvu"] is not None else "diverged"
    return made


def write(folder: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """Write table and plot into `folder`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    write_text(folder / "table.csv", text.getvalue())
    write_text(folder / "table.json", json.dumps(list(table), indent=2) + "\n")
    with atomic_path(folder / "pareto.png") as temporary:
        temporary.write_bytes(plot([row for row in table if row["fvu"] is not None]))


def _dominates(other: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    if other["fvu"] is None:
        return False
    no_worse = other["fvu"] <= row["fvu"] and other["l0"] <= row["l0"]
    return no_worse and (other["fvu"] < row["fvu"] or other["l0"] < row["l0"])


def plot(table: Sequence[Mapping[str, Any]]) -> bytes:
    """FVU and CE recovered against L0, as a PNG."""
    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _scatter(left, table, "fvu", "FVU (lower is better)")
    _scatter(right, table, "ce_recovered_zero", "CE recovered, zero ablation (higher is better)")
    front = sorted((row for row in table if row["pareto"]), key=lambda row: row["l0"])
    left.plot([row["l0"] for row in front], [row["fvu"] for row in front], color="#888888", linewidth=1, zorder=1)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _scatter(axes: Axes, table: Sequence[Mapping[str, Any]], key: str, label: str) -> None:
    colours = ["#d1495b" if row["pareto"] else "#30638e" for row in table]
    axes.scatter([row["l0"] for row in table], [row[key] for row in table], c=colours, s=28, zorder=2)
    if len(table) <= NOTED:
        for row in table:
            axes.annotate(row["name"], (row["l0"], row[key]), (4, 3), textcoords="offset points", fontsize=7)
    axes.set(xlabel="L0, active latents for each activation", ylabel=label)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
