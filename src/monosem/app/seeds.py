"""How much of an SAE other seeds found again, in the terminal: what `monosem seeds` prints."""

import json

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from monosem.interpret.stability import SAME
from monosem.interpret.tables import LATENTS
from monosem.run import Stage


def show(stage: Stage, *, as_json: bool) -> None:
    """Print the comparison with each other SAE, beside what random directions reach."""
    counts = stage.manifest.counts
    if as_json:
        print(json.dumps(counts))
        return
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, caption=f"shared: largest cosine of decoder rows at least {SAME:g}"
    )
    table.add_column("other SAE", overflow="fold")
    for name in ("seed", "shared", "random", "mean cosine", "random"):
        table.add_column(name, justify="right")
    for name, figures in counts["others"].items():
        shares = (f"{100 * figures[key]:.1f} %" for key in ("shared", "shared_random"))
        means = (f"{figures[key]:.3f}" for key in ("mean_cosine", "mean_cosine_random"))
        table.add_row(Text(name), str(figures["seed"]), *shares, *means)
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{counts['latents']:,} latents, each in {stage.path / LATENTS}", soft_wrap=True)
