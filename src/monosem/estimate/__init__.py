"""What a recipe will ask of a machine, before anything starts: disk, memory, time and money, stage by stage.

Flow: `workload` finds out how much text there is, `machine` what is there to run it; each stage that the recipe asks
for has a function that makes a `Cost` of both; `plan` adds up, and `refusals` says what does not fit and
which key would change that. `measured` times a few real steps where the machine is this one.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from monosem import training
from monosem.estimate import judging, learning, measured, money, reading, storing, workload
from monosem.estimate.job import Cost, Job
from monosem.estimate.machine import GB, Machine
from monosem.estimate.money import Bill
from monosem.estimate.workload import Workload
from monosem.lm.known import KnownModel
from monosem.lm.shape import describe
from monosem.pipeline import PIPELINE, VERBS
from monosem.recipe import Recipe

__all__ = ["STAGES", "Bill", "Cost", "Machine", "Plan", "Workload", "free_disk", "plan", "refusals"]

STAGES: Mapping[str, Callable[[Job], Cost]] = {
    "sentences": storing.sentences,
    "capture": storing.capture,
    "prepare": storing.prepare,
    "train": learning.train,
    "finetune": learning.finetune,
    "codes": reading.codes,
    "examples": reading.examples,
    "coactivation": reading.coactivation,
    "groups": reading.groups,
    "explain": judging.explain,
    "evaluate": judging.evaluate,
    "score": judging.score,
    "report": judging.report,
}
"""By verb."""


class Plan(NamedTuple):
    """All that is foreseen of a run."""

    machine: Machine
    model: KnownModel
    work: Workload
    costs: tuple[Cost, ...]
    bills: tuple[Bill, ...]
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
        return money.STORAGE * sum(cost.disk for cost in self.costs if cost.stage == "capture") / GB


def plan(recipe: Recipe, on: Machine, *, measure: bool = False) -> Plan:
    """Foresee a run; reads a small corpus or a sample of a large one, and no weights unless told to `measure`.

    Raises:
        RecipeError: how large the corpus is cannot be known, or that many devices cannot train the recipe together.
        ModelError, AssetError, CorpusError: the model or a source cannot be looked up.
    """
    training.fits(recipe, on.devices)
    model, work = describe(recipe.model.source), workload.measure(recipe)
    job = Job(recipe, work, model, on)
    if measure:
        job = Job(recipe, work, model, on, measured.measure(recipe, work, job.widths))
    parts = tuple(STAGES[step.verb](job) for step in PIPELINE if step.asked(recipe, VERBS))
    return Plan(on, model, work, parts, tuple(money.bills(job)), learning.step(job).sent)


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
    lines += [
        f"{cost.stage}: {cost.memory / GB:,.1f} GB of memory are needed, {found.machine.name} has "
        f"{found.machine.memory / GB:,.0f} GB; {_dials(cost.stage, recipe, found)}"
        for cost in found.costs
        if cost.memory > found.machine.memory
    ]
    budget = recipe.explain.max_usd
    lines += [
        f"explain: about ${bill.usd:,.2f} for {bill.requests:,} requests, explain.max_usd is ${budget:,.2f}; a larger "
        f"one, explain.template = 'short', or fewer explain.examples"
        for bill in found.bills
        if bill.stage == "explain" and budget is not None and bill.usd is not None and bill.usd > budget
    ]
    return lines


def _dials(stage: str, recipe: Recipe, found: Plan) -> str:
    match stage:
        case "train":
            dials = ["a smaller sae.n"] if found.machine.is_cpu else ["more --gpus", "a smaller sae.n"]
            if recipe.train.micro_batch is None or recipe.train.micro_batch > 1024:
                dials.append("a smaller train.micro_batch")
            if recipe.train.source == "live":
                dials.append("a smaller train.buffer")
            return ", ".join(dials)
        case "examples":
            return "a smaller examples.top or fewer examples.aggregations"
        case "prepare":
            return "a smaller prepare.shard_mb"
        case "codes" | "coactivation" | "groups":
            return "a smaller sae.n"
        case "evaluate" | "score" | "finetune":
            return f"a smaller {stage}.batch_tokens, or a smaller model"
    return "a smaller capture.batch_tokens, or a smaller model"


def free_disk(runs: Path) -> float:
    """Bytes that can still be written below `runs`, which need not be there yet."""
    existing = next(path for path in (runs, *runs.resolve().parents) if path.exists())
    return float(shutil.disk_usage(existing).free)
