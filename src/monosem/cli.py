"""The command line: parse, open the recipe or run, call the stage. No logic lives here.

The arguments of every verb are a frozen dataclass that tyro reads; `main` picks the verb and turns every `MonosemError`
into one line and exit code 2. Heavy imports wait until a verb needs them.
"""

import difflib
import errno
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from monosem import __version__, pipeline, recipe, run
from monosem.atomic import NO_ROOM
from monosem.errors import MonosemError, RecipeError, RunError
from monosem.recipe import Aggregation, Recipe
from monosem.run import Run

RUNS = Path("runs")
Verb = Literal["sentences", "capture", "prepare", "train", "examples", "explain", "evaluate", "report"]


@dataclass(frozen=True)
class StageArguments:
    """A run and its recipe. Every key of the recipe can be set here; the defaults shown are the recipe's values."""

    target: tyro.conf.Positional[str]
    """A recipe (`recipes/demo.toml`), a run folder (`runs/demo`), or the name of a run (`demo`)."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    runs: Path = RUNS
    """Folder that holds the run folders."""
    redo: Verb | None = None
    """Delete the files of this stage and of all that follow, then make them again."""
    json: bool = False
    """Print the result as one JSON object."""


@dataclass(frozen=True)
class ShowArguments:
    """Show one latent: its explanation, its figures, the sentences that activate it most."""

    target: tyro.conf.Positional[str]
    """A run folder, or the name of a run."""
    latent: tyro.conf.Positional[int]
    """Number of the latent, from 0."""
    aggregation: Aggregation = "max"
    """Which ranking of sentences is shown."""
    top: int = 10
    """Sentences shown."""
    runs: Path = RUNS
    """Folder that holds the run folders."""
    json: bool = False
    """Print the card as one JSON object."""


@dataclass(frozen=True)
class SearchArguments:
    """Find latents by words in their explanations and sentences."""

    target: tyro.conf.Positional[str]
    """A run folder, or the name of a run."""
    words: tyro.conf.Positional[tuple[str, ...]]
    """Words to look for; upper and lower case are the same."""
    limit: int = 10
    """Most latents listed."""
    runs: Path = RUNS
    """Folder that holds the run folders."""
    json: bool = False
    """Print the hits as a JSON list."""


@dataclass(frozen=True)
class CompleteArguments:
    """Complete prompts with the run's language model, steered by latents of its SAE."""

    target: tyro.conf.Positional[str]
    """A run folder, or the name of a run."""
    prompts: tyro.conf.Positional[tuple[str, ...]]
    """One or more texts to go on from."""
    steer: tuple[str, ...] = ()
    """`LATENT=VALUE`, in units of the codes, or `LATENT=VALUEmax` for multiples of its largest observed activation."""
    mode: Literal["add", "clamp", "scale", "ablate"] = "add"
    """What VALUE does: added to the code, set as the code, multiplied with it; `ablate` needs no value."""
    replace: bool = False
    """Put the SAE's reconstruction in the activation's place, instead of keeping its error."""
    show_latents: bool = False
    """Under every token, the latents that are most active at it."""
    temperature: float = 0.0
    """0: always the most probable token."""
    top_p: float = 1.0
    """Sample only among the most probable tokens that make up this share."""
    seed: int = 0
    """Seed of the sampling."""
    max_new_tokens: int = 40
    """Most tokens generated."""
    runs: Path = RUNS
    """Folder that holds the run folders."""
    json: bool = False
    """Print one JSON object for each prompt."""


class Command(NamedTuple):
    """One verb of the command line."""

    arguments: type
    call: Callable[[Any], None]
    help: str


def stages(*verbs: str) -> Callable[[StageArguments], None]:
    """The call that makes these stages."""

    def call(arguments: StageArguments) -> None:
        opened = Run(_run_path(arguments), arguments.recipe)
        made = pipeline.make(opened, verbs, arguments.redo)
        from monosem.app import summary

        summary.show(opened, made, as_json=arguments.json)

    return call


def show(arguments: ShowArguments) -> None:
    from monosem.app import terminal

    terminal.show_latent(
        _opened(arguments), arguments.latent, arguments.aggregation, arguments.top, as_json=arguments.json
    )


def search(arguments: SearchArguments) -> None:
    from monosem.app import terminal

    terminal.search(_opened(arguments), " ".join(arguments.words), arguments.limit, as_json=arguments.json)


def complete(arguments: CompleteArguments) -> None:
    from monosem import steering
    from monosem.app import terminal
    from monosem.lm.generate import Sampling

    run_ = _opened(arguments)
    edits = [steering.parse(text, arguments.mode) for text in arguments.steer]
    sampling = Sampling(arguments.max_new_tokens, arguments.temperature, arguments.top_p, arguments.seed)
    terminal.complete(
        run_,
        arguments.prompts,
        edits,
        sampling,
        replace=arguments.replace,
        show_latents=arguments.show_latents,
        as_json=arguments.json,
    )


COMMANDS: dict[str, Command] = {
    "run": Command(StageArguments, stages(*pipeline.VERBS), "Make every stage of a recipe; finished ones are skipped."),
    **{step.verb: Command(StageArguments, stages(step.verb), step.help) for step in pipeline.PIPELINE},
    "show": Command(ShowArguments, show, "Show one latent with its explanation and sentences."),
    "search": Command(SearchArguments, search, "Find latents by words."),
    "complete": Command(CompleteArguments, complete, "Complete prompts, steered by latents."),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; exit code 0 when it did what was asked, 2 for a mistake that the user can mend."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(arguments)
    except MonosemError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in {*NO_ROOM, errno.EACCES, errno.EROFS}:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror}; mend it and give the same command again: it goes on from here")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
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
    if command.arguments is StageArguments:
        named = rest[0] if rest and not rest[0].startswith("-") else None
        runs = Path(rest[rest.index("--runs") + 1]) if "--runs" in rest[:-1] else RUNS
        default = StageArguments(target=named or tyro.MISSING, recipe=_recipe(named, runs) if named else Recipe())
    return tyro.cli(
        command.arguments, args=rest, default=default, prog=f"monosem {verb}", description=_description(verb, command)
    )


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
        return command.arguments.__doc__ or command.help
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


def _run_path(arguments: StageArguments) -> Path:
    """A run folder that is named keeps its place unless another name is given; a recipe's run lies below `runs`."""
    folder = run.resolve(arguments.target, arguments.runs)
    if folder is not None and arguments.recipe.name == recipe.load(folder / "recipe.toml").name:
        return folder
    return arguments.runs / arguments.recipe.name


def _opened(arguments: ShowArguments | SearchArguments | CompleteArguments) -> Run:
    folder = run.resolve(arguments.target, arguments.runs)
    if folder is None:
        raise RunError(f"{arguments.target}: not a run folder (no recipe.toml); make one with: monosem run RECIPE")
    return Run.open(folder)


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
