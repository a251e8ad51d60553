"""Of the verbs that make a run, or foresee one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from monosem.cli.arguments.fields import RUNS, AsJson, RecipeOrRun, RunsFolder
from monosem.recipe import Recipe

Verb = Literal[
    "sentences",
    "capture",
    "prepare",
    "train",
    "finetune",
    "codes",
    "examples",
    "coactivation",
    "groups",
    "explain",
    "evaluate",
    "score",
    "report",
]
EXPLAIN_STEPS = ("plan", "send", "status", "fetch", "parse", "run")


@dataclass(frozen=True)
class StageArguments:
    """A run and its recipe. Every key of the recipe can be set here; the defaults shown are the recipe's values."""

    target: RecipeOrRun
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    runs: RunsFolder = RUNS
    redo: Verb | None = None
    """Delete the files of this stage and of all that follow, then make them again."""
    dry_run: bool = False
    """Rehearse the recipe in minutes on a CPU: a random model of its width with two layers, few sentences and steps."""
    json: AsJson = False


@dataclass(frozen=True)
class EstimateArguments:
    """Foresee a run: disk, memory, time and money of every stage, before anything starts. Writes nothing.

    Any key of the recipe may be given. A small corpus is read, of a large one a sample; of a hub's model and dataset
    nothing but the model's `config.json` is fetched. What does not fit the machine is named, with the keys that would
    change it, and the exit code is 2.

    Example: monosem estimate recipes/llama-3.2-3b-reference.toml --gpus 8 --gpu rtx4090
    """

    target: RecipeOrRun
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    gpu: Literal["rtx4090", "a100", "h100", "h200"] | None = None
    """The kind of GPU. None: the machine that this runs on."""
    gpus: int = 1
    """How many of them."""
    measure: bool = False
    """Load the model, time a few real steps here, and reckon with these."""
    runs: Path = RUNS
    """Folder that would hold the run, whose disk is looked at unless --gpu names another machine."""
    json: bool = False
    """Print the estimate as one JSON object."""


@dataclass(frozen=True)
class ExplainArguments(StageArguments):
    """Say in words what each latent reacts to: all of it, or one step of asking a provider.

    `monosem explain RUN` makes the stage. A provider that is asked (`explain.provider`) is asked in steps, each of
    which can be given alone and again: `monosem explain plan RUN` writes the requests and says what they cost, `send`
    sends them, `status` says how far they are, `fetch` brings the answers, `parse` makes `explanations.jsonl`; `run`
    does all of it and waits. Nothing is sent without `--yes`.

    Example: monosem explain plan runs/demo --explain.provider anthropic --explain.model claude-haiku-5-5
    """

    yes: bool = False
    """Send what was planned. It may cost money."""
    max_usd: float | None = None
    """Most that may be spent on this run's explanations, in US dollars (`explain.max_usd`)."""
    resend_lost: bool = False
    """With `send`: ask once more what stands in batches that are gone at the provider, and pay for it once more."""
    final: bool = False
    """With `parse`: leave unexplained what could be asked again."""
    step: tyro.conf.Suppress[str] = "run"
    """Which step; `run`: all of them."""


@dataclass(frozen=True)
class SweepArguments:
    """Train many SAEs in one pass over the activations, and compare them.

    Any key of the recipe may be given. One with several values is an axis: `--sae.k 16,32,64 --seed 0,1,2` trains
    nine. Keys that hold lists take `;` between values: `--sae.prefixes "512;512,2048"`. The table and the plot lie in
    `RUN/sweep/`. Under torchrun the ranks share the SAEs out; each reads the activations once for its own.

    Example: monosem sweep recipes/demo.toml --sae.k 16,32 --sae.n 4096,8192
    """

    target: RecipeOrRun
    runs: RunsFolder = RUNS
    json: bool = False
    """Print the table as a JSON list."""
    keys: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The pairs of `--key value`."""
