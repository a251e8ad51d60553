"""Writes docs/cli.md from the help of every command. `--check` only compares, for CI."""

import os
import subprocess
import sys
from pathlib import Path

from monosem.cli import COMMANDS

PAGE = Path(__file__).with_name("cli.md")
RECIPE_VERB = "run"
STORE_ACTIONS = ("verify", "ls", "stats", "merge", "pack")


def main() -> None:
    page = render()
    if "--check" not in sys.argv:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        sys.exit(f"error: {PAGE} is not what the commands say; make it again with: make docs")


def render() -> str:
    """The page: the list of commands, then each one's own help."""
    parts = ["# Command line", "", "Written by `make docs` from the commands themselves.", "", *_block()]
    for verb, command in COMMANDS.items():
        if verb != RECIPE_VERB and command.arguments is COMMANDS[RECIPE_VERB].arguments:
            parts += [f"## monosem {verb}", "", f"{command.help} Takes what `monosem {RECIPE_VERB}` takes.", ""]
        else:
            parts += [f"## monosem {verb}", "", *_block(verb)]
            for action in STORE_ACTIONS if verb == "store" else ():
                parts += [f"### monosem {verb} {action}", "", *_block(verb, action)]
    return "\n".join(parts)


def _block(*verb: str) -> list[str]:
    return ["```text", *(line.rstrip() for line in _help(*verb).strip().splitlines()), "```", ""]


def _help(*verb: str) -> str:
    command = [sys.executable, "-m", "monosem", *verb, "--help"]
    environment = {**os.environ, "COLUMNS": "110", "NO_COLOR": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
