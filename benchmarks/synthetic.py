"""Recovery of a known dictionary: every sparsity of ours beside the peers that have it.

Data, steps, batches and the course of the learning rate are the same for all. For each contestant the rate, Adam's
averaging factors (and the penalty, where only a penalty decides how many latents are active) are chosen on a seed of
its own, by MCC among the runs whose L0 is within 10 % of the task's; then it is trained anew on the other seeds, which
the table shows. `chance` is a random dictionary with the true number of active latents. Peers take part where `--peers`
names an environment.

    PYTHONPATH=src python benchmarks/synthetic.py --peers .peers/bin/python --json
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from synthetic_task import DONE, Task
from synthetic_weights import DenseCodes, learned_by
from torch import Tensor

from monosem.evaluate.recovery import Learned, Recovery, measure
from monosem.evaluate.synthetic import Synthetic, SyntheticBatch, SyntheticSettings

HERE = Path(__file__).parent
SPARSITIES = ("topk", "batchtopk", "jumprelu", "relu", "abstopk", "matryoshka", "multi-topk")
PEERS = {
    "sparsify": ("topk", "multi-topk"),
    "dictionary_learning": ("topk", "batchtopk", "jumprelu", "relu", "matryoshka"),
    "sae_lens": ("topk", "batchtopk", "jumprelu", "relu", "abstopk", "matryoshka"),
}
OURS = "monosem"
Betas = tuple[float, float]
L0_TOLERANCE = 0.1
PENALTY_TRIES = 5
TUNING_SEED = 1_000
TEST_BATCH = 1024


@dataclass(frozen=True)
class Contestant:
    """A package and a sparsity."""

    package: str
    sparsity: str

    @property
    def name(self) -> str:
        return f"{self.package} {self.sparsity}"

    @property
    def slope(self) -> float:
        """How log L0 goes with the logarithm of the penalty: of `jumprelu` it is a target, of `relu` a price."""
        return 1.0 if self.sparsity == "jumprelu" else -1.0

    def penalty(self, task: Task) -> float | None:
        """Where the search of the penalty begins; None: k decides L0."""
        if self.sparsity == "jumprelu":
            return task.true_l0
        if self.sparsity != "relu":
            return None
        # the weight beside |x - x_hat|^2, where E|x|^2 is d; dictionary_learning brings it to 1
        return task.d**-0.5 if self.package == "dictionary_learning" else 1.0


class Run(NamedTuple):
    """One training run and what came of it."""

    lr: float
    betas: Betas | None
    penalty: float
    seed: int
    seconds: float
    recovery: Recovery


class WorkerFailed(Exception):
    """A contestant's process ended; the message is its last line."""


class Worker:
    """The process that trains a contestant; `with` ends it."""

    def __init__(self, contestant: Contestant, task: Task, python: str, folder: Path) -> None:
        self.contestant, self.folder, self.runs = contestant, folder, 0
        script = HERE / ("synthetic_ours.py" if contestant.package == OURS else "synthetic_peers.py")
        path = os.pathsep.join([str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [python, str(script), json.dumps(asdict(task))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr").open("w"),
            text=True,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def train(self, lr: float, betas: Betas | None, penalty: float, seed: int, data: Path) -> tuple[Path, float]:
        """The folder of the weights, and the seconds of training."""
        assert self._process.stdin
        assert self._process.stdout
        self.runs += 1
        out = self.folder / str(self.runs)
        name = self.contestant.sparsity
        sparsity = name if self.contestant.package == OURS else f"{self.contestant.package}:{name}"
        job = {"sparsity": sparsity, "lr": lr, "betas": betas, "penalty": penalty, "seed": seed}
        job |= {"data": data, "out": out}
        self._process.stdin.write(json.dumps(job, default=str) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(DONE):
                return out, json.loads(line.removeprefix(DONE))["seconds"]
        said = (self.folder / "stderr").read_text().strip().splitlines()
        raise WorkerFailed(said[-1] if said else "it ended without a word")


class Ground:
    """The data of one seed: training batches on disk for the contestants, and the truth to measure them by."""

    def __init__(self, task: Task, seed: int, test_rows: int, folder: Path) -> None:
        self.task, self.seed, self.path = task, seed, folder / f"data-{seed}.safetensors"
        clusters, rank = max(1, task.n_true // 256), max(1, task.d // 16)
        settings = SyntheticSettings(
            task.n_true, task.d, task.true_l0, clusters=clusters, rank=rank, bias=1.0, seed=seed
        )
        self.synthetic = Synthetic(settings)
        x = torch.empty(task.steps * task.batch, task.d)
        self.seen = torch.zeros(task.n_true, dtype=torch.bool)
        for rows, batch in zip(x.split(task.batch), self.synthetic.batches(task.batch, task.steps), strict=True):
            rows.copy_(batch.x)
            self.seen[batch.codes.features] = True
        mean = x.mean(0)
        scale = (task.d / (x - mean).square().sum(1).mean()).sqrt()
        save_file({"x": x.sub_(mean).mul_(scale)}, self.path)
        self.probe = x[: task.batch].clone()
        test = self.synthetic.batches(TEST_BATCH, math.ceil(test_rows / TEST_BATCH), "test")
        self.test: list[SyntheticBatch] = [batch._replace(x=(batch.x - mean) * scale) for batch in test]

    def judge(self, learned: Learned) -> Recovery:
        """Measure on the test data."""
        return measure(learned, self.synthetic.dictionary, self.synthetic.frequency, self.test, self.seen)

    def chance(self) -> Run:
        """A random dictionary whose latents fire at random."""
        generator = torch.Generator().manual_seed(self.seed)
        n, d, k = self.task.n, self.task.d, self.task.k

        def encode(x: Tensor) -> DenseCodes:
            fires = torch.rand(len(x), n, generator=generator) < k / n
            return DenseCodes(fires * 1e-6)

        learned = Learned(torch.randn(n, d, generator=generator), torch.zeros(d), encode)
        return Run(0.0, None, 0.0, self.seed, 0.0, self.judge(learned))


class Competition:
    """Contestants against the same ground: the first for tuning, the others for the table."""

    def __init__(
        self, task: Task, grounds: list[Ground], rates: list[float], betas: list[Betas | None], peers: str
    ) -> None:
        self.task, self.rates, self.betas, self.peers = task, rates, betas, peers
        self.tuning, *self.grounds = grounds

    def attempt(self, contestant: Contestant) -> dict[str, Any]:
        """`compete`, or why it could not."""
        try:
            return self.compete(contestant)
        except WorkerFailed as error:
            print(f"{contestant.name:<32} failed: {error}", flush=True)
            return {"contestant": asdict(contestant), "failed": str(error)}

    def compete(self, contestant: Contestant) -> dict[str, Any]:
        """Tune a contestant, then train it on every seed."""
        python = sys.executable if contestant.package == OURS else self.peers
        first = contestant.penalty(self.task)
        with (
            tempfile.TemporaryDirectory() as folder,
            Worker(contestant, self.task, python, Path(folder)) as worker,
        ):

            def run(lr: float, betas: Betas | None, penalty: float, ground: Ground) -> Run:
                out, seconds = worker.train(lr, betas, penalty, ground.seed, ground.path)
                return Run(lr, betas, penalty, ground.seed, seconds, ground.judge(learned_by(out, ground.probe)))

            tried: list[Run] = []
            for lr, betas in itertools.product(self.rates, self.betas):
                # the next search begins where the last one ended
                start = tried[-1].penalty if tried and first is not None else first
                tried += at_l0(partial(run, lr, betas, ground=self.tuning), start, self.task.true_l0, contestant.slope)
            close = [one for one in tried if excess(one, self.task.true_l0) <= 0]
            best = max(close, key=lambda one: one.recovery.mcc) if close else min(tried, key=self._excess)
            runs = [run(best.lr, best.betas, best.penalty, ground) for ground in self.grounds]
        print(self.row(contestant.name, runs), flush=True)
        chosen = {"lr": best.lr, "betas": best.betas, "penalty": best.penalty}
        return {"contestant": asdict(contestant), **chosen, "runs": runs, "tuning": tried}

    def _excess(self, run: Run) -> float:
        return excess(run, self.task.true_l0)

    def row(self, name: str, runs: list[Run]) -> str:
        """A line of the table: means over the seeds, with the standard deviation of MCC and F1."""

        def mean(column: str) -> float:
            return statistics.mean(getattr(run.recovery, column) for run in runs)

        def spread(column: str) -> float:
            values = [getattr(run.recovery, column) for run in runs]
            return statistics.stdev(values) if len(values) > 1 else 0.0

        bands = zip(*([band.mcc for band in run.recovery.bands] for run in runs), strict=True)
        off = "*" if any(self._excess(run) > 0 for run in runs) else " "
        edge = "!" if len(self.rates) > 1 and runs[0].lr in (min(self.rates), max(self.rates)) else ""
        cells = [
            f"{name:<32}{mean('mcc'):>7.3f} ±{spread('mcc'):.3f}{mean('mcc_weighted'):>9.3f}{mean('recovered'):>10.3f}",
            f"{mean('f1'):>7.3f} ±{spread('f1'):.3f}{mean('f1_weighted'):>9.3f}{mean('fvu'):>8.3f}",
            f"{mean('l0'):>6.1f}{off}{'  '.join(f'{statistics.mean(band):.3f}' for band in bands):>32}",
            f"{statistics.mean(run.seconds for run in runs):>7.1f}  {runs[0].lr:g}{edge}  {runs[0].betas or ''}",
        ]
        return "".join(cells)


HEADER = (
    f"{'':32}{'MCC':>14}{'weighted':>9}{'recovered':>10}{'F1':>14}{'weighted':>9}{'FVU':>8}{'L0':>6} "
    f"{'MCC by band, frequent to rare':>32}{'s':>7}  rate, betas"
)
LEGEND = "* L0 not within 10 % of the task's    ! the best rate is at an end of those tried"


def excess(run: Run, l0: float) -> float:
    """How far beyond the tolerance a run's L0 is, in its logarithm; at most 0: within."""
    return abs(log_l0(run) - math.log(l0)) - math.log1p(L0_TOLERANCE)


def log_l0(run: Run) -> float:
    return math.log(max(run.recovery.l0, 1e-3))


def at_l0(train: Callable[[float], Run], penalty: float | None, l0: float, slope: float) -> list[Run]:
    """Runs that lead to a penalty with the L0 wanted, by secants of log L0 over log penalty; without one, one run.

    `slope` is the guess before two runs are known; its sign is kept.
    """
    if penalty is None:
        return [train(0.0)]
    runs = [train(penalty)]
    while excess(runs[-1], l0) > 0 and len(runs) < PENALTY_TRIES:
        last = runs[-1]
        if len(runs) > 1 and last.penalty != runs[-2].penalty:
            measured = (log_l0(last) - log_l0(runs[-2])) / math.log(last.penalty / runs[-2].penalty)
            slope = math.copysign(min(max(abs(measured), 0.3), 3.0), slope)
        move = (math.log(l0) - log_l0(last)) / slope
        runs.append(train(last.penalty * math.exp(min(max(move, -2.0), 2.0))))
    return runs


def main() -> None:
    options = arguments()
    task = Task(
        n_true=options.n_true,
        d=options.d,
        true_l0=options.l0,
        n=options.n or options.n_true,
        k=round(options.l0),
        batch=options.batch,
        steps=options.steps,
        dead_steps=options.dead_steps,
    )
    torch.set_num_threads(1)
    print(", ".join(f"{name} {value}" for name, value in asdict(task).items()), HEADER, sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        seeds = [TUNING_SEED, *range(options.first_seed, options.first_seed + options.seeds)]
        grounds = list(pool.map(lambda seed: Ground(task, seed, options.test, Path(folder)), seeds))
        competition = Competition(task, grounds, options.lr, options.betas, options.peers)
        by_chance = [ground.chance() for ground in grounds[1:]]
        print(competition.row("chance", by_chance), flush=True)
        results = list(pool.map(competition.attempt, contestants(options)))
    print(LEGEND)
    if options.json:
        print(json.dumps({"task": asdict(task), "chance": by_chance, "results": results}, default=str))


def contestants(options: argparse.Namespace) -> list[Contestant]:
    """Ours, and the peers' where they can be run."""
    chosen = [Contestant(OURS, sparsity) for sparsity in options.sparsities]
    if options.peers:
        chosen += [Contestant(name, s) for name, has in PEERS.items() for s in options.sparsities if s in has]
    return [contestant for contestant in chosen if not options.only or contestant.package in options.only]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-true", type=int, default=512, help="features")
    parser.add_argument("--d", type=int, default=96, help="width of the activations")
    parser.add_argument("--l0", type=float, default=8.0, help="mean number of active features; k of the SAEs")
    parser.add_argument("--n", type=int, default=0, help="latents; 0: as many as features")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--dead-steps", type=int, default=25, help="a latent silent for so many steps is dead")
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2])
    own = "averaging factors of Adam to try, as 0.8,0.95; `own`: the package's"
    parser.add_argument("--betas", type=averaging, nargs="+", default=[None], help=own)
    parser.add_argument("--seeds", type=int, default=3, help="of the table")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--test", type=int, default=16_384, help="fresh vectors that everyone is measured on")
    parser.add_argument("--sparsities", nargs="+", default=SPARSITIES, choices=SPARSITIES)
    parser.add_argument("--peers", metavar="PYTHON", help="python of an environment with the peers")
    parser.add_argument("--only", nargs="+", choices=(OURS, *PEERS), help="these packages alone")
    parser.add_argument("--jobs", type=int, default=2, help="contestants trained at once, one thread each")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def averaging(text: str) -> Betas | None:
    """`own`, or two factors."""
    if text == "own":
        return None
    first, second = map(float, text.split(","))
    return first, second


if __name__ == "__main__":
    main()
