"""The stages in the order the data walks: this list is the architecture.

`make` runs a part of them in one run folder; before anything is written or deleted, every stage that has files compares
them with the recipe. Of several ranks all make the stages that can be shared out, and rank 0 the others. Knows nothing
of what a stage does.
"""

import importlib
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from monosem import progress
from monosem.ranks import WEEK
from monosem.recipe import Recipe
from monosem.run import Run, Stage


class Step(NamedTuple):
    """One stage of the pipeline."""

    verb: str
    """Name on the command line."""
    folder: str
    """Name of its folder in the run."""
    module: str
    """Module whose `open_stage(run)` and `make(run)` it is; its `check(run, verbs, redo)`, if any, comes before all."""
    help: str
    """One line for the command line."""
    wanted: Callable[[Recipe], bool] = lambda _: True
    """Whether a recipe asks for the stage at all."""
    shared: bool = False
    """Whether all ranks make it together."""

    def asked(self, recipe: Recipe, verbs: Sequence[str]) -> bool:
        """Whether these verbs make it."""
        return self.verb in verbs and not self.spared(recipe, verbs)

    def spared(self, recipe: Recipe, verbs: Sequence[str]) -> str:
        """Why it is left out although it is among the verbs; empty: it is not."""
        if not self.wanted(recipe):
            return "the recipe does not ask for it"
        if recipe.train.source == "live" and self.verb not in STORELESS and set(verbs) == set(VERBS):
            return "training is live and stores no activations; capture and prepare do, when they are named"
        return ""


STORELESS = ("sentences", "train", "finetune", "codes", "examples", "coactivation", "groups", "explain")
"""Stages that neither make nor read stored activations, where training is live."""
PIPELINE = (
    Step("sentences", "sentences", "monosem.corpus.sentences", "Split documents into sentences."),
    Step(
        "capture",
        "activations",
        "monosem.capture",
        "Store the language model's activations on the sentences.",
        shared=True,
    ),
    Step(
        "prepare",
        "batches",
        "monosem.store.prepare",
        "Shuffle the activations and split off validation sentences.",
        shared=True,
    ),
    Step(
        "train",
        "sae",
        "monosem.training",
        "Train the sparse autoencoder; goes on from its last checkpoint.",
        shared=True,
    ),
    Step(
        "finetune",
        "finetune",
        "monosem.finetune",
        "Fine-tune the SAE against the language model; left out unless finetune.tokens is set.",
        wanted=lambda recipe: recipe.finetune.wanted,
    ),
    Step(
        "codes",
        "codes",
        "monosem.encoding",
        "Encode every activation by the SAE once.",
        shared=True,
    ),
    Step(
        "examples",
        "examples",
        "monosem.interpret.examples",
        "Find the sentences that activate each latent most.",
        shared=True,
    ),
    Step(
        "coactivation",
        "coactivation",
        "monosem.interpret.coactivation",
        "Count which latents fire on the same tokens, and find clusters of latents.",
        shared=True,
    ),
    Step("groups", "groups", "monosem.interpret.groups", "Find n-grams and groups in each latent's sentences."),
    Step("explain", "explanations", "monosem.interpret.explain", "Say in words what each latent reacts to."),
    Step("evaluate", "evaluation", "monosem.evaluate.stage", "Measure the SAE beside its baselines."),
    Step("score", "scores", "monosem.interpret.score.stage", "Grade the explanations beside their baselines."),
    Step("report", "report", "monosem.evaluate.report", "Write the self-contained page report.html."),
)
VERBS = tuple(step.verb for step in PIPELINE)


def make(run: Run, verbs: Sequence[str] = VERBS, redo: str | None = None) -> dict[str, Stage]:
    """Make the named stages in order; finished ones are skipped, and those that the recipe does not ask for.

    Args:
        redo: first delete this stage's files and those of every later one.

    Raises:
        RunError: files were made with another recipe, or a stage that is needed is missing.
        MonosemError: whatever a stage reports.
    """
    made: dict[str, Stage] = {}
    run.ranks.agree("recipe", run.recipe.model_dump(mode="json"))
    with run.lock():
        run.ranks.once("the files that are there", lambda: _begin(run, verbs, redo))
        for step in PIPELINE:
            if step.asked(run.recipe, verbs):
                made[step.verb] = _make(run, step)
            elif step.verb in verbs:
                progress.note(f"{step.verb}: skipped, {step.spared(run.recipe, verbs)}")
    return made


def _begin(run: Run, verbs: Sequence[str], redo: str | None) -> None:
    """Compare what is there with the recipe, and delete what shall be made again."""
    for step in PIPELINE:
        check = getattr(importlib.import_module(step.module), "check", None)
        if check is not None:
            check(run, verbs, redo)
    if redo is not None:
        doomed = [step.folder for step in PIPELINE[VERBS.index(redo) :]]
        removed = run.remove(doomed)
        progress.note(f"removed {', '.join(removed) or 'nothing'} from {run.path}")
    for step in PIPELINE:
        if step.wanted(run.recipe):
            importlib.import_module(step.module).open_stage(run)
    run.save_recipe()


def _make(run: Run, step: Step) -> Stage:
    module = importlib.import_module(step.module)
    if run.ranks.once(step.verb, lambda: module.open_stage(run).complete):
        stage = module.open_stage(run)
        progress.note(f"{step.verb}: skipped, {stage.path} is complete")
        return stage
    progress.note(f"{step.verb}: {module.open_stage(run).path}")
    started = time.monotonic()
    if step.shared:
        module.make(run)
    elif run.ranks.first:
        module.make(Run(run.path, run.recipe))
    run.ranks.barrier(step.verb, WEEK)
    stage = module.open_stage(run)
    progress.note(f"{step.verb}: done in {time.monotonic() - started:.1f} s{_told(stage)}")
    return stage


def _told(stage: Stage) -> str:
    """The stage's plain counts, as a tail of its last line."""
    counts = stage.manifest.counts.items()
    told = [f"{name} {_figure(value)}" for name, value in counts if isinstance(value, int | float | str)]
    return f" ({', '.join(told)})" if told else ""


def _figure(value: int | float | str) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else value
