"""How long every recipe's rehearsal takes on this machine's CPU, one after the other.

    python benchmarks/dry_runs.py recipes/*.toml
    OMP_NUM_THREADS=1 python benchmarks/dry_runs.py recipes/gemma.toml

Prints a table: wall-clock and processor seconds of the whole command, and the stages that took longest.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from monosem.run import MANIFEST

LONGEST = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=Path, nargs="+")
    print("| recipe | s | CPU s | longest stages, s |\n|---|---|---|---|")
    for path in parser.parse_args().recipes:
        with tempfile.TemporaryDirectory() as folder:
            wall, processor = rehearse(path, folder)
            stages = sorted(seconds_by_stage(Path(folder)).items(), key=lambda found: -found[1])[:LONGEST]
        told = ", ".join(f"{name} {seconds:.0f}" for name, seconds in stages)
        print(f"| {path.stem} | {wall:.0f} | {processor:.0f} | {told} |", flush=True)


def rehearse(path: Path, runs: str) -> tuple[float, float]:
    """Wall-clock and processor seconds of the command."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "monosem", "run", str(path), "--dry-run", "--runs", runs]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begun, processor


def seconds_by_stage(runs: Path) -> dict[str, float]:
    """As the manifests say."""
    manifests = [json.loads(file.read_text()) for file in runs.rglob(MANIFEST)]
    return {manifest["stage"]: manifest["seconds"] for manifest in manifests}


if __name__ == "__main__":
    main()
