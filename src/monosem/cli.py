"""The command line: parse, open the recipe or run, call the stage. No logic lives here.

The arguments of every verb are a dataclass of `arguments.py` that tyro reads; `main` picks the verb and turns every
`MonosemError` into one line and exit code 2. Heavy imports wait until a verb needs them.
"""

import dataclasses
import difflib
import errno
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import tyro

from monosem import __version__, pipeline, progress, ranks, recipe, run
from monosem.arguments import (
    EXPLAIN_STEPS,
    RUNS,
    AppArguments,
    ChatArguments,
    CompleteArguments,
    EstimateArguments,
    ExplainArguments,
    ModelsArguments,
    NeighboursArguments,
    SearchArguments,
    ShowArguments,
    StageArguments,
    StoreArguments,
    StoreList,
    StoreMerge,
    StorePack,
    StoreStats,
    StoreVerify,
    SweepArguments,
    TokensArguments,
)
from monosem.atomic import NO_ROOM
from monosem.errors import MonosemError, RecipeError, RunError
from monosem.recipe import Recipe
from monosem.run import Run

if TYPE_CHECKING:
    from monosem.completion import SteeringSet


class Command(NamedTuple):
    """One verb of the command line."""

    arguments: type
    call: Callable[[Any], None]
    help: str


def stages(*verbs: str) -> Callable[[StageArguments], None]:
    """The call that makes these stages."""

    def call(arguments: StageArguments) -> None:
        with ranks.joined() as together:
            if not together.first:
                progress.silence()
            wanted = arguments.recipe
            if arguments.dry_run:
                from monosem import dry_run

                wanted = together.once("the rehearsal", lambda: dry_run.rehearse(wanted, arguments.runs))
                path = arguments.runs / wanted.name
            else:
                path = _path(arguments.target, arguments.runs, wanted.name)
            opened = Run(path, wanted, together)
            made = pipeline.make(opened, verbs, arguments.redo)
        if together.first:
            from monosem.app import summary

            summary.show(opened, made, as_json=arguments.json)

    return call


def estimate(arguments: EstimateArguments) -> None:
    from monosem.app import estimates

    estimates.show(
        arguments.recipe,
        arguments.gpu,
        arguments.gpus,
        arguments.runs,
        measure=arguments.measure,
        as_json=arguments.json,
    )


def explain(arguments: ExplainArguments) -> None:
    if arguments.dry_run:
        stages("explain")(arguments)
        return
    opened = Run(_path(arguments.target, arguments.runs, arguments.recipe.name), arguments.recipe)
    pipeline.make(opened, (), arguments.redo)
    from monosem.app import explaining

    budget = arguments.recipe.explain.max_usd if arguments.max_usd is None else arguments.max_usd
    consent = explaining.Consent(arguments.yes or arguments.recipe.explain.send, budget)
    explaining.STEPS[arguments.step](opened, consent, arguments)
    if arguments.step == "run":
        stages("explain")(dataclasses.replace(arguments, redo=None))


def sweep(arguments: SweepArguments) -> None:
    from monosem.app import sweeps
    from monosem.sweep import axes, stage

    wanted = axes.read(_recipe(arguments.target, arguments.runs), arguments.keys)
    path = _path(arguments.target, arguments.runs, wanted.recipe.name)
    sweeps.show(path, stage.make(path, wanted), as_json=arguments.json)


def show(arguments: ShowArguments) -> None:
    from monosem.app import terminal

    terminal.show_latent(
        _opened(arguments), arguments.latent, arguments.aggregation, arguments.top, as_json=arguments.json
    )


def search(arguments: SearchArguments) -> None:
    from monosem.app import terminal

    terminal.search(_opened(arguments), " ".join(arguments.words), arguments.limit, as_json=arguments.json)


def neighbours(arguments: NeighboursArguments) -> None:
    from monosem.app import neighbours as beside

    if arguments.top < 1:
        raise RecipeError(f"--top {arguments.top}: expected at least 1")
    beside.show(_opened(arguments), arguments.latent, arguments.by, arguments.top, as_json=arguments.json)


def complete(arguments: CompleteArguments) -> None:
    from monosem.app import prompts, terminal
    from monosem.completion import Completer
    from monosem.lm.generate import Sampling

    run_ = _opened(arguments)
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

    completer = Completer(_opened(arguments))
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
    terminal.tokens(Completer(_opened(arguments)), text, arguments.top, as_json=arguments.json)


def app(arguments: AppArguments) -> None:
    from monosem.app.page import serve

    if not arguments.targets:
        raise RecipeError("monosem app: which run? give a run folder, or the name of one")
    folders = [_folder(target, arguments.runs) for target in arguments.targets]
    serve.serve(folders, arguments.host, arguments.port, serve.password(ask=arguments.password))


def models(arguments: ModelsArguments) -> None:
    from monosem.app import models as listing

    listing.show(as_json=arguments.json)


def store(arguments: StoreArguments) -> None:
    from monosem.app import store as stores

    match arguments.action:
        case StoreVerify(path, json):
            stores.verify(path, as_json=json)
        case StoreList(path, json):
            stores.list_shards(path, as_json=json)
        case StoreStats(path, json):
            stores.stats(path, as_json=json)
        case StoreMerge(target, sources, json):
            stores.merge(target, sources, as_json=json)
        case StorePack(path, url, gb, json):
            stores.pack(path, url, gb, as_json=json)


def _steering(arguments: CompleteArguments | ChatArguments) -> "SteeringSet":
    """The edits of `--steering` and `--steer` together."""
    from monosem.completion import SteeringSet
    from monosem.steering import parse

    named = SteeringSet.load(arguments.steering) if arguments.steering else SteeringSet()
    edits = (*named.edits, *(parse(text, arguments.mode) for text in arguments.steer))
    return SteeringSet(edits, named.replace or arguments.replace)


COMMANDS: dict[str, Command] = {
    "run": Command(StageArguments, stages(*pipeline.VERBS), "Make every stage of a recipe; finished ones are skipped."),
    **{step.verb: Command(StageArguments, stages(step.verb), step.help) for step in pipeline.PIPELINE},
    "estimate": Command(EstimateArguments, estimate, "Foresee disk, memory, time and money of a recipe."),
    "explain": Command(ExplainArguments, explain, "Say in words what each latent reacts to, or ask somebody to."),
    "sweep": Command(SweepArguments, sweep, "Train many SAEs in one pass over the activations, and compare them."),
    "show": Command(ShowArguments, show, "Show one latent with its explanation and sentences."),
    "search": Command(SearchArguments, search, "Find latents by words."),
    "neighbours": Command(NeighboursArguments, neighbours, "Show latents that fire together with one."),
    "complete": Command(CompleteArguments, complete, "Complete prompts, steered by latents."),
    "chat": Command(ChatArguments, chat, "Talk to the model, steered by latents."),
    "tokens": Command(TokensArguments, tokens, "Read a text: the latents at each token."),
    "app": Command(AppArguments, app, "Open a page: explore latents, read texts, steer, follow training."),
    "store": Command(StoreArguments, store, "Check, list, measure, merge or pack stores of activations."),
    "models": Command(ModelsArguments, models, "List the language models that are known, with memory needs."),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; exit code 0 when it did what was asked, 2 for a mistake that the user can mend."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(arguments)
    except MonosemError as error:
        _fail(str(error))
    except BrokenPipeError:
        # whoever read the output has enough; the closed pipe must not complain once more when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno not in {*NO_ROOM, errno.EACCES, errno.EROFS}:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror}; mend it and give the same command again: it goes on from here")
    except KeyboardInterrupt:
        made = bool(arguments) and issubclass(COMMANDS[arguments[0]].arguments, StageArguments | SweepArguments)
        print("stopped" + "; the same command goes on from here" * made, file=sys.stderr)
        sys.exit(130)


def _dispatch(arguments: list[str]) -> None:
    verb, *rest = arguments or ["--help"]
    if verb in ("-h", "--help"):
        print(usage())
    elif verb == "--version":
        print(f"monosem {__version__}")
    elif verb in COMMANDS:
        command = COMMANDS[verb]
        command.call(parse(verb, command, rest))
    else:
        nearest = difflib.get_close_matches(verb, COMMANDS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; there are {', '.join(COMMANDS)}"
        raise RecipeError(f"no command {verb!r}{hint}")


def parse(verb: str, command: Command, rest: Sequence[str]) -> Any:
    """The verb's arguments; those of a stage start from the recipe or run that is named first."""
    default = None
    if issubclass(command.arguments, StageArguments | EstimateArguments):
        stepwise = command.arguments is ExplainArguments and len(rest) > 1 and rest[0] in EXPLAIN_STEPS
        step = rest[0] if stepwise else "run"
        rest = rest[stepwise:]
        named = rest[0] if rest and not rest[0].startswith("-") else None
        runs = Path(rest[rest.index("--runs") + 1]) if "--runs" in rest[:-1] else RUNS
        recipe_ = _recipe(named, runs) if named else Recipe()
        default = command.arguments(target=named or tyro.MISSING, recipe=recipe_)
        if isinstance(default, ExplainArguments):
            default = dataclasses.replace(default, step=step)
    prog, description = f"monosem {verb}", _description(verb, command)
    if command.arguments is SweepArguments:
        # any key of the recipe may be an axis: what tyro does not know is read by the sweep
        sweep_, keys = tyro.cli(
            command.arguments, args=rest, prog=prog, description=description, return_unknown_args=True
        )
        return dataclasses.replace(sweep_, keys=tuple(keys))
    return tyro.cli(command.arguments, args=rest, default=default, prog=prog, description=description)


def usage() -> str:
    """The list of commands."""
    lines = [
        "usage: monosem COMMAND ...",
        "",
        "Find the concepts inside a language model: capture, train, explain, measure, steer.",
        "",
    ]
    lines += [f"  {name:<10} {command.help}" for name, command in COMMANDS.items()]
    lines += ["", "Begin with:  monosem run recipes/demo.toml", "Each command explains itself:  monosem COMMAND --help"]
    return "\n".join(lines)


def _description(verb: str, command: Command) -> str:
    if command.arguments is not StageArguments:
        return inspect.cleandoc(command.arguments.__doc__ or command.help)
    return (
        f"{command.help}\n\n{StageArguments.__doc__}\n\nExample: monosem {verb} recipes/demo.toml --sae.k 16 --name k16"
    )


def _recipe(target: str, runs: Path) -> Recipe:
    """The recipe that a target names: a TOML file, or the one kept in a run folder."""
    folder = run.resolve(target, runs)
    if folder is not None:
        return recipe.load(folder / "recipe.toml")
    if target.endswith(".toml") or Path(target).is_file():
        return recipe.load(Path(target))
    raise RecipeError(f"{target}: neither a recipe nor a run folder; try recipes/demo.toml, or a folder below {runs}/")


def _path(target: str, runs: Path, name: str) -> Path:
    """A run folder that is named keeps its place unless another name is given; a recipe's run lies below `runs`."""
    folder = run.resolve(target, runs)
    if folder is not None and name == recipe.load(folder / "recipe.toml").name:
        return folder
    return runs / name


def _opened(
    arguments: ShowArguments
    | SearchArguments
    | NeighboursArguments
    | CompleteArguments
    | ChatArguments
    | TokensArguments,
) -> Run:
    return Run.open(_folder(arguments.target, arguments.runs))


def _folder(target: str, runs: Path) -> Path:
    folder = run.resolve(target, runs)
    if folder is None:
        raise RunError(f"{target}: not a run folder (no recipe.toml); make one with: monosem run RECIPE")
    return folder


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
