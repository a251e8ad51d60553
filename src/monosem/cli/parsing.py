"""From the words of a command to its verb's arguments, and the texts that explain them."""

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from monosem.cli.arguments.fields import RUNS
from monosem.cli.arguments.stages import (
    EXPLAIN_STEPS,
    EstimateArguments,
    ExplainArguments,
    StageArguments,
    SweepArguments,
)
from monosem.cli.commands import COMMANDS, Command
from monosem.cli.targets import recipe_of
from monosem.recipe import Recipe


def parse(verb: str, command: Command, rest: Sequence[str]) -> Any:
    """The verb's arguments; those of a stage start from the recipe or run that is named first."""
    default = None
    if issubclass(command.arguments, StageArguments | EstimateArguments):
        stepwise = command.arguments is ExplainArguments and len(rest) > 1 and rest[0] in EXPLAIN_STEPS
        step = rest[0] if stepwise else "run"
        rest = rest[stepwise:]
        named = rest[0] if rest and not rest[0].startswith("-") else None
        runs = Path(rest[rest.index("--runs") + 1]) if "--runs" in rest[:-1] else RUNS
        defaults = recipe_of(named, runs) if named else Recipe()
        default = command.arguments(target=named or tyro.MISSING, recipe=defaults)
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
    lines += [f"  {name:<12} {command.help}" for name, command in COMMANDS.items()]
    lines += ["", "Begin with:  monosem run recipes/demo.toml", "Each command explains itself:  monosem COMMAND --help"]
    return "\n".join(lines)


def _description(verb: str, command: Command) -> str:
    if command.arguments is not StageArguments:
        return inspect.cleandoc(command.arguments.__doc__ or command.help)
    return (
        f"{command.help}\n\n{StageArguments.__doc__}\n\nExample: monosem {verb} recipes/demo.toml --sae.k 16 --name k16"
    )
