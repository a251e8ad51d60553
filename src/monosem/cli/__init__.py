"""The command line: parse, open the recipe or run, call the stage. No logic lives here.

The arguments of every verb are a dataclass of `arguments/` that tyro reads; `main` picks the verb and turns every
`MonosemError` into one line and exit code 2. Heavy imports wait until a verb needs them.
"""

import difflib
import errno
import os
import sys
from collections.abc import Sequence

from monosem import __version__
from monosem.atomic import NO_ROOM
from monosem.cli.arguments.stages import StageArguments, SweepArguments
from monosem.cli.commands import COMMANDS
from monosem.cli.parsing import parse, usage
from monosem.errors import MonosemError, RecipeError

__all__ = ["COMMANDS", "main"]


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


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
