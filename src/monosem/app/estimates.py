"""An estimate on the terminal: one line a stage, what sets its pace, and what does not fit."""

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from monosem import estimate
from monosem.errors import RecipeError
from monosem.estimate import Bill, Plan
from monosem.estimate.machine import GB, machine
from monosem.recipe import Recipe

BASIS = {
    "read": "the corpus was read",
    "sampled": "from a sample of the corpus",
    "tabulated": "from corpus.max_sentences and a table, nothing was read",
}


def show(recipe: Recipe, gpu: str | None, gpus: int, runs: Path, *, measure: bool, as_json: bool) -> None:
    """Print what a recipe will ask of a machine.

    Raises:
        RecipeError: it does not fit, after it was printed; or the machine is not known.
    """
    if measure and gpu is not None:
        raise RecipeError("--measure times this machine; leave out --gpu")
    on = machine(gpu, gpus)
    found = estimate.plan(recipe, on, measure=measure)
    free = None if gpu is not None else estimate.free_disk(runs)
    problems = estimate.refusals(found, recipe, free)
    if as_json:
        print(json.dumps(_as_json(found, problems)))
    else:
        console = Console(highlight=False)
        console.print(_table(found, recipe))
        for line in _lines(found, free):
            console.print(f"  {line}", soft_wrap=True)
    if problems:
        raise RecipeError(f"{recipe.name} does not fit: {'; '.join(problems)}")


def _table(found: Plan, recipe: Recipe) -> Table:
    devices = f"{found.machine.devices} x " * (found.machine.devices > 1)
    title = f"{recipe.name}: {recipe.model.source} on {devices}{found.machine.name}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage")
    for label in ("disk", "for a while", "memory", "time"):
        table.add_column(label, justify="right")
    table.add_column("limited by")
    for cost in found.costs:
        while_ = size(cost.peak_disk) if cost.peak_disk else ""
        table.add_row(cost.stage, size(cost.disk), while_, size(cost.memory), duration(cost.seconds), cost.limit)
    table.add_section()
    table.add_row("in all", size(found.disk), size(found.peak_disk), size(found.memory), duration(found.seconds), "")
    return table


def _lines(found: Plan, free: float | None) -> list[str]:
    work = found.work
    lines = [
        f"{work.sentences:,} sentences, {work.tokens:,} tokens, {work.rows:,} activations stored at each hook point "
        f"({BASIS[work.basis]})"
    ]
    lines += [f"{cost.stage}: {cost.note}" for cost in found.costs if cost.note]
    if found.sent:
        lines.append(f"each GPU sends {found.sent / 1e6:,.0f} MB a training step")
    if found.storage_dollars:
        lines.append(f"a month of object storage for the activations: ${found.storage_dollars:,.2f}")
    lines += [_bill(bill) for bill in found.bills]
    if free is not None:
        lines.append(f"free on this disk: {size(free)}")
    return lines


def _bill(bill: Bill) -> str:
    """One line of what a provider is asked for."""
    cost = "a price that no table names (explain.prices)" if bill.usd is None else f"about ${bill.usd:,.2f}"
    return (
        f"{bill.stage}: {bill.requests:,} requests of {bill.provider} {bill.model}, {bill.tokens.input / 1e6:,.1f} M "
        f"tokens in, {bill.tokens.output / 1e6:,.1f} M out: {cost}"
    )


def _as_json(found: Plan, problems: list[str]) -> dict[str, Any]:
    return {
        "machine": found.machine._asdict(),
        "model": found.model.source,
        "work": found.work._asdict(),
        "stages": [cost._asdict() for cost in found.costs],
        "disk": found.disk,
        "peak_disk": found.peak_disk,
        "memory": found.memory,
        "seconds": found.seconds,
        "sent_bytes_a_step": found.sent,
        "storage_dollars_a_month": found.storage_dollars,
        "bills": [{**bill._asdict(), "tokens": vars(bill.tokens)} for bill in found.bills],
        "does_not_fit": problems,
    }


def size(count: float) -> str:
    """Bytes for a reader, in steps of a thousand."""
    for unit, name in ((1e12, "TB"), (GB, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:,.2f} {name}" if count < 10 * unit else f"{count / unit:,.1f} {name}"
    return f"{count / 1e3:,.0f} kB"


def duration(seconds: float) -> str:
    """Seconds for a reader."""
    for unit, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds:,.0f} s"
