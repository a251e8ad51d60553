"""What `monosem estimate` foresees of each stage of a recipe, beside what the stage takes in a process of its own.

    python benchmarks/foreseen.py recipes/demo.toml --out runs/foreseen
    python benchmarks/foreseen.py recipes/demo.toml --out runs/foreseen --cpu --corpus.max-documents 150 --sae.n 2048

Prints a table, and a JSON object of the totals; with `--cpu` times are those of the processor, on one thread, which
other programs do not disturb. What it takes to start Python and to load modules is in neither column.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from monosem import estimate
from monosem.cli.arguments.stages import EstimateArguments
from monosem.cli.commands import COMMANDS
from monosem.cli.parsing import parse
from monosem.estimate.machine import this_cpu
from monosem.recipe import Recipe

STAGE = """
import importlib, json, sys, time
from pathlib import Path
from memory import peak_bytes
from monosem import pipeline
from monosem.pipeline import PIPELINE
from monosem.recipe import Recipe
from monosem.run import Run
verb, folder, recipe = sys.argv[1:]
importlib.import_module(next(step.module for step in PIPELINE if step.verb == verb))
clock = {clock}
begun = clock()
pipeline.make(Run(Path(folder), Recipe.model_validate_json(recipe)), (verb,))
print(json.dumps({{"seconds": clock() - begun, "memory": peak_bytes()}}))
"""


class Taken(NamedTuple):
    """What one stage took."""

    disk: float
    memory: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path, required=True, help="run folder to make")
    parser.add_argument("--cpu", action="store_true", help="processor time on one thread")
    args, keys = parser.parse_known_args()
    arguments = parse("estimate", COMMANDS["estimate"], [args.recipe, *keys])
    assert isinstance(arguments, EstimateArguments)
    if args.cpu:
        os.environ["OMP_NUM_THREADS"] = "1"
        import torch

        torch.set_num_threads(1)
    found = estimate.plan(arguments.recipe, this_cpu(time.process_time if args.cpu else time.perf_counter))
    rows = [(cost, take(cost.stage, args.out, arguments.recipe, cpu=args.cpu)) for cost in found.costs]
    print(f"{'stage':<13}{'MB':>9}{'of':>9}{'GB':>7}{'of':>7}{'s':>8}{'of':>8}   foreseen, of what it took")
    for cost, own in rows:
        print(
            f"{cost.stage:<13}{cost.disk / 1e6:>9.1f}{own.disk / 1e6:>9.1f}{cost.memory / 1e9:>7.2f}"
            f"{own.memory / 1e9:>7.2f}{cost.seconds:>8.1f}{own.seconds:>8.1f}"
        )
    totals = {
        "disk": (found.disk, sum(own.disk for _, own in rows)),
        "memory": (found.memory, max(own.memory for _, own in rows)),
        "seconds": (found.seconds, sum(own.seconds for _, own in rows)),
    }
    print(json.dumps({name: {"foreseen": a, "taken": b, "ratio": round(a / b, 3)} for name, (a, b) in totals.items()}))


def take(verb: str, run: Path, recipe: Recipe, *, cpu: bool) -> Taken:
    """Make a stage."""
    before = size(run)
    clock = "time.process_time" if cpu else "time.perf_counter"
    command = [sys.executable, "-c", STAGE.format(clock=clock), verb, str(run), recipe.model_dump_json()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path[1:]])}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout)
    return Taken(size(run) - before, told["memory"], told["seconds"])


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
