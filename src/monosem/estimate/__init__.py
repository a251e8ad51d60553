"""What a recipe will ask of a machine, before anything starts: disk, memory, time and money, stage by stage.

Flow: `workload` finds out how much text there is, `machine` what is there to run it, `costs` puts the two together for
each stage; `plan` adds up, and `refusals` says what does not fit and which key would change that. `measured` times a
few real steps where the machine is this one.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

from monosem.estimate import costs, measured, workload
from monosem.estimate.costs import Cost
from monosem.estimate.machine import GB, Machine
from monosem.estimate.workload import Workload
from monosem.lm.known import KnownModel
from monosem.lm.shape import describe
from monosem.recipe import Recipe

__all__ = ["Cost", "Machine", "Plan", "Workload", "free_disk", "plan", "refusals"]

STORAGE = 0.023
"""US dollars for a gigabyte and month of object storage (the list price of the large clouds' standard class, 2025)."""


class Plan(NamedTuple):
    """All that is foreseen of a run."""

    machine: Machine
    model: KnownModel
    work: Workload
    costs: tuple[Cost, ...]
    sent: float
    """Bytes that each device sends in a training step."""

    @property
    def disk(self) -> float:
        """Bytes of the whole run folder at its end."""
        return sum(cost.disk for cost in self.costs)

    @property
    def peak_disk(self) -> float:
        """Bytes at the fullest moment."""
        before = [sum(cost.disk for cost in self.costs[:place]) for place in range(len(self.costs))]
        return max(lying + cost.disk + cost.peak_disk for lying, cost in zip(before, self.costs, strict=True))

    @property
    def memory(self) -> float:
        """Bytes of the largest process; on a GPU, of its memory."""
        return max(cost.memory for cost in self.costs)

    @property
    def seconds(self) -> float:
        return sum(cost.seconds for cost in self.costs)

    @property
    def storage_dollars(self) -> float:
        """A month of object storage for the activations."""
        return STORAGE * sum(cost.disk for cost in self.costs if cost.stage == "capture") / GB


def plan(recipe: Recipe, on: Machine, *, measure: bool = False) -> Plan:
    """Foresee a run; reads a small corpus or a sample of a large one, and no weights unless told to `measure`.

    Raises:
        RecipeError: how large the corpus is cannot be known.
        ModelError, AssetError, CorpusError: the model or a source cannot be looked up.
    """
    model = describe(recipe.model.source)
    work = workload.measure(recipe)
    widths = costs.widths(recipe, model)
    timed = measured.measure(recipe, work, widths) if measure else None
    parts = (
        costs.sentences(recipe, work),
        costs.capture(recipe, work, model, on, timed.tokens_per_second if timed else None),
        costs.prepare(recipe, work, model),
        costs.train(recipe, work, model, on, timed.step_seconds if timed else None),
        costs.codes(recipe, work, model, on),
        costs.examples(recipe, work),
        costs.evaluate(recipe, work, model, on),
    )
    sent = costs.sent_bytes(recipe, widths, on.devices) if on.devices > 1 else 0.0
    return Plan(on, model, work, parts, sent)


def refusals(found: Plan, recipe: Recipe, free_disk: float | None) -> list[str]:
    """What does not fit, one line each, with the dials that would mend it; empty where all does."""
    lines = []
    if free_disk is not None and found.peak_disk > free_disk:
        dials = ["a smaller corpus.max_sentences"]
        if recipe.capture.dtype != "int8":
            dials.insert(0, "capture.dtype = 'int8' (half)")
        if not recipe.prepare.consume:
            dials.insert(0, "prepare.consume = true (one copy less)")
        lines.append(
            f"disk: {found.peak_disk / GB:,.1f} GB are needed at the fullest, {free_disk / GB:,.1f} GB are free; "
            f"{', '.join(dials)}"
        )
    for cost in found.costs:
        if cost.memory > found.machine.memory:
            lines.append(
                f"{cost.stage}: {cost.memory / GB:,.1f} GB of memory are needed, {found.machine.name} has "
                f"{found.machine.memory / GB:,.0f} GB; {_dials(cost.stage, recipe, found)}"
            )
    return lines


def _dials(stage: str, recipe: Recipe, found: Plan) -> str:
    if stage == "train":
        dials = ["a smaller sae.n"] if found.machine.is_cpu else ["more --gpus", "a smaller sae.n"]
        if recipe.train.micro_batch is None or recipe.train.micro_batch > 1024:
            dials.append("a smaller train.micro_batch")
        return ", ".join(dials)
    if stage == "examples":
        return "a smaller examples.top or fewer examples.aggregations"
    return f"a smaller {'evaluate' if stage == 'evaluate' else 'capture'}.batch_tokens, or a smaller model"


def free_disk(runs: Path) -> float:
    """Bytes that can still be written below `runs`, which need not be there yet."""
    existing = next(path for path in (runs, *runs.resolve().parents) if path.exists())
    return float(shutil.disk_usage(existing).free)
