"""The verbs of the command line."""

from collections.abc import Callable
from typing import Any, NamedTuple

from monosem import pipeline
from monosem.cli import asking, exchanging
from monosem.cli.arguments.formats import ExportArguments, ImportArguments
from monosem.cli.arguments.latents import NeighboursArguments, SearchArguments, SeedsArguments, ShowArguments
from monosem.cli.arguments.model import (
    AppArguments,
    ChatArguments,
    CompleteArguments,
    ModelsArguments,
    TokensArguments,
)
from monosem.cli.arguments.stages import EstimateArguments, ExplainArguments, StageArguments, SweepArguments
from monosem.cli.arguments.store import StoreArguments
from monosem.cli.stages import estimate, explain, stages, store, sweep


class Command(NamedTuple):
    """One verb of the command line."""

    arguments: type
    call: Callable[[Any], None]
    help: str


COMMANDS: dict[str, Command] = {
    "run": Command(StageArguments, stages(*pipeline.VERBS), "Make every stage of a recipe; finished ones are skipped."),
    **{step.verb: Command(StageArguments, stages(step.verb), step.help) for step in pipeline.PIPELINE},
    "estimate": Command(EstimateArguments, estimate, "Foresee disk, memory, time and money of a recipe."),
    "explain": Command(ExplainArguments, explain, "Say in words what each latent reacts to, or ask somebody to."),
    "sweep": Command(SweepArguments, sweep, "Train many SAEs in one pass over the activations, and compare them."),
    "show": Command(ShowArguments, asking.show, "Show one latent with its explanation and sentences."),
    "search": Command(SearchArguments, asking.search, "Find latents by words."),
    "neighbours": Command(NeighboursArguments, asking.neighbours, "Show latents that fire together with one."),
    "seeds": Command(SeedsArguments, asking.seeds, "Compare with other seeds: which latents they find again."),
    "complete": Command(CompleteArguments, asking.complete, "Complete prompts, steered by latents."),
    "chat": Command(ChatArguments, asking.chat, "Talk to the model, steered by latents."),
    "tokens": Command(TokensArguments, asking.tokens, "Read a text: the latents at each token."),
    "app": Command(AppArguments, asking.app, "Open a page: explore latents, read texts, steer, follow training."),
    "store": Command(StoreArguments, store, "Check, list, measure, merge or pack stores of activations."),
    "export": Command(ExportArguments, exchanging.export, "Write an SAE for SAELens, sparsify or dictionary_learning."),
    "import": Command(ImportArguments, exchanging.bring, "Read an SAE of another library into monosem's format."),
    "models": Command(ModelsArguments, asking.models, "List the language models that are known, with memory needs."),
}
