"""The calls of the verbs that ask a finished run: of its latents, or of its language model with the SAE inside."""

from typing import TYPE_CHECKING

from monosem.cli.arguments.latents import NeighboursArguments, SearchArguments, SeedsArguments, ShowArguments
from monosem.cli.arguments.model import (
    AppArguments,
    ChatArguments,
    CompleteArguments,
    ModelsArguments,
    TokensArguments,
)
from monosem.cli.targets import folder_of, opened
from monosem.errors import RecipeError

if TYPE_CHECKING:
    from monosem.completion import SteeringSet


def show(arguments: ShowArguments) -> None:
    from monosem.app import terminal

    terminal.show_latent(
        opened(arguments),
        arguments.latent,
        arguments.aggregation,
        arguments.top,
        as_json=arguments.json,
    )


def search(arguments: SearchArguments) -> None:
    from monosem.app import terminal

    terminal.search(opened(arguments), " ".join(arguments.words), arguments.limit, as_json=arguments.json)


def neighbours(arguments: NeighboursArguments) -> None:
    from monosem.app import neighbours as beside

    if arguments.top < 1:
        raise RecipeError(f"--top {arguments.top}: expected at least 1")
    beside.show(opened(arguments), arguments.latent, arguments.by, arguments.top, as_json=arguments.json)


def seeds(arguments: SeedsArguments) -> None:
    from monosem.app import seeds as comparison
    from monosem.interpret import seeds as measured

    others = [folder_of(target, arguments.runs) for target in arguments.others]
    comparison.show(measured.make(opened(arguments), others), as_json=arguments.json)


def complete(arguments: CompleteArguments) -> None:
    from monosem.app import prompts, terminal
    from monosem.completion import Completer
    from monosem.lm.generate import Sampling

    run_ = opened(arguments)
    for name, value in (("--samples", arguments.samples), ("--top-latents", arguments.top_latents)):
        if value < 1:
            raise RecipeError(f"{name} {value}: expected at least 1")
    settings = terminal.Settings(
        _steering(arguments),
        Sampling(arguments.max_new_tokens, arguments.temperature, arguments.top_p, arguments.seed),
        arguments.compare,
        arguments.samples,
        arguments.top_latents if arguments.show_latents else 0,
    )
    if arguments.compare and not (settings.steering.edits or settings.steering.replace):
        raise RecipeError("--compare: nothing is steered; add --steer LATENT=VALUE or --steering FILE")
    texts = prompts.read_prompts(arguments.prompts, arguments.file)
    terminal.complete(Completer(run_), texts, settings, as_json=arguments.json)


def chat(arguments: ChatArguments) -> None:
    from rich.console import Console

    from monosem.app import chat as chats
    from monosem.app.commands import Session
    from monosem.completion import Completer, Conversation
    from monosem.lm.generate import Sampling

    completer = Completer(opened(arguments))
    steering = _steering(arguments)
    completer.steering(steering.edits)
    sampling = Sampling(arguments.max_new_tokens, arguments.temperature, arguments.top_p, arguments.seed)
    model = completer.model
    session = Session(
        completer,
        Conversation(model.tokenizer, model.config.context_length, arguments.system),
        Console(highlight=False),
        sampling,
        steering,
        arguments.mode,
        arguments.compare,
        arguments.show_latents,
    )
    chats.chat(session)


def tokens(arguments: TokensArguments) -> None:
    from monosem.app import prompts, terminal
    from monosem.completion import Completer

    if arguments.top < 1:
        raise RecipeError(f"--top {arguments.top}: expected at least 1")
    text = prompts.read_text(arguments.text)
    terminal.tokens(Completer(opened(arguments)), text, arguments.top, as_json=arguments.json)


def app(arguments: AppArguments) -> None:
    from monosem.app.page import serve

    if not arguments.targets:
        raise RecipeError("monosem app: which run? give a run folder, or the name of one")
    folders = [folder_of(target, arguments.runs) for target in arguments.targets]
    serve.serve(folders, arguments.host, arguments.port, serve.password(ask=arguments.password))


def models(arguments: ModelsArguments) -> None:
    from monosem.app import models as listing

    listing.show(as_json=arguments.json)


def _steering(arguments: CompleteArguments | ChatArguments) -> "SteeringSet":
    """The edits of `--steering` and `--steer` together."""
    from monosem.completion import SteeringSet
    from monosem.steering import parse

    named = SteeringSet.load(arguments.steering) if arguments.steering else SteeringSet()
    edits = (*named.edits, *(parse(text, arguments.mode) for text in arguments.steer))
    return SteeringSet(edits, named.replace or arguments.replace)
