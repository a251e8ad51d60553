"""What a sweep costs beside the steps of its SAEs: reading, normalising, tracking, metrics, validation, checkpoints.

Trains a sweep on the batches of a finished run and divides the time of the whole pass by the time inside the SAEs' own
steps, measured in the same pass. Counts the batches that were read.

    python benchmarks/sweep.py runs/demo --sae.k 16,32,64 --sae.n 2048,4096 --train.epochs 1
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from monosem.run import Run
from monosem.store.loader import Loader
from monosem.sweep import axes, stage
from monosem.sweep.members import BORROWED, open_member
from monosem.train.step import TrainStep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run whose batches are there")
    args, keys = parser.parse_known_args()
    own, read = Timed(TrainStep.step_normalised), Timed(Loader.__next__)
    TrainStep.step_normalised = own.method  # pyright: ignore[reportAttributeAccessIssue]
    Loader.__next__ = read.method  # pyright: ignore[reportAttributeAccessIssue]
    with tempfile.TemporaryDirectory() as folder:
        sweep = axes.read(Run.open(args.run).recipe, keys)
        base = Run(Path(folder) / "sweep", sweep.recipe)
        base.path.mkdir()
        for name in BORROWED:
            (base.path / name).symlink_to((args.run / name).resolve(), target_is_directory=True)
        members = [open_member(base, member) for member in sweep.members]
        began = time.perf_counter()
        stage.train(members)
        seconds = time.perf_counter() - began
    figures = {
        "saes": len(members),
        "seconds": round(seconds, 1),
        "own_steps": round(own.seconds, 1),
        "ratio": round(seconds / own.seconds, 3),
        "batches_read": read.calls,
        "steps_each": own.calls // len(members),
    }
    print(json.dumps(figures))


class Timed:
    """A method, and how often and how long it ran."""

    def __init__(self, call) -> None:
        self.calls, self.seconds = 0, 0.0

        def method(*args, **kwargs):
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.calls += 1
                self.seconds += time.perf_counter() - began

        self.method = method


if __name__ == "__main__":
    main()
