"""The stage `examples`: memory and time at scale on made-up codes, its cost beside encoding, one latent's reading.

`scale` makes up codes (latents fire as often as a power law says) and keeps no file of them; it passes them through the
collector, writes the tables and reads single latents back. `cost` takes a finished run: shard by shard it encodes, then
collects and counts the same shard, in CPU time, and adds what it costs to write the tables.

    python benchmarks/examples.py scale --latents 65536 --sentences 1000000
    python benchmarks/examples.py cost runs/demo
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from memory import peak_bytes

from monosem import capture
from monosem.interpret import encoding, examples, selection, tables
from monosem.interpret.codes import Codes, StoredCodes
from monosem.interpret.collect import Collector, Plan
from monosem.interpret.counting import PairCounts
from monosem.interpret.negatives import Pool
from monosem.recipe import ExamplesRecipe
from monosem.run import Run
from monosem.sae import files
from monosem.store import shards

TOKENS, VOCABULARY = 27, 128_256  # a sentence; Llama 3
READS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    scale_ = commands.add_parser("scale")
    scale_.add_argument("--latents", type=int, default=65_536)
    scale_.add_argument("--sentences", type=int, default=1_000_000)
    scale_.add_argument("--k", type=int, default=64)
    scale_.set_defaults(call=lambda args: scale(args.latents, args.sentences, args.k))
    cost_ = commands.add_parser("cost")
    cost_.add_argument("run", type=Path)
    cost_.set_defaults(call=lambda args: cost(Run.open(args.run)))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(args.call(args), indent=2))


class Part(NamedTuple):
    """A made-up file of codes."""

    number: int
    rows: int


class MadeUp:
    """Codes that are drawn whenever they are read, the same each time; as `StoredCodes`."""

    def __init__(self, n: int, sentences: int, k: int, per_part: int = 5000) -> None:
        self.n, self.k, self.sentences, self.rows = n, k, sentences, sentences * TOKENS
        starts = range(0, sentences, per_part)
        self.shards = [Part(i, min(per_part, sentences - start) * TOKENS) for i, start in enumerate(starts)]
        self._per_part = per_part

    def read(self, shard: Part) -> Codes:
        rng = np.random.default_rng(shard.number)
        sentence = shard.number * self._per_part + np.arange(shard.rows // TOKENS)
        spread = rng.random((shard.rows, self.k), dtype=np.float32)
        # k strata of the latents, one draw in each: no latent twice in a row; the power makes densities differ
        latent = ((spread**3 + np.arange(self.k, dtype=np.float32)) * (self.n // self.k)).astype(np.int32)
        return Codes(
            sentence,
            np.full(len(sentence), TOKENS, np.int32),
            np.tile(np.arange(TOKENS, dtype=np.int32), len(sentence)),
            (rng.random(shard.rows) ** 4 * VOCABULARY).astype(np.int32),
            np.full(shard.rows, self.k, np.int32),
            np.minimum(latent, self.n - 1).reshape(-1),
            rng.exponential(size=shard.rows * self.k).astype(np.float32) + np.float32(1e-6),
        )

    def sentences_of(self, shard: Part) -> np.ndarray:
        return shard.number * self._per_part + np.arange(shard.rows // TOKENS)

    def take(self, shard: Part, which: np.ndarray) -> Codes:
        return self.read(shard).chosen(which)


def scale(n: int, sentences: int, k: int) -> dict[str, Any]:
    """Collect, write and read back."""
    with tempfile.TemporaryDirectory() as folder:
        return passed(MadeUp(n, sentences, k), Path(folder)) | reading(Path(folder), n)


def passed(codes: MadeUp, folder: Path) -> dict[str, Any]:
    """One pass over the codes, and the tables of what it kept."""
    recipe = ExamplesRecipe()
    wanted = Plan(recipe.top, recipe.aggregations, selection.sample_size(recipe), recipe.test, recipe.test_fraction)
    collector = Collector(codes.n, wanted)
    result: dict[str, Any] = {
        "latents": codes.n,
        "sentences": codes.sentences,
        "drawing_cpu_s": 0.0,
        "collect_cpu_s": 0.0,
    }
    for shard in codes.shards:
        made, seconds = timed(lambda shard=shard: codes.read(shard))
        result["drawing_cpu_s"] += seconds
        result["collect_cpu_s"] += timed(lambda made=made: examples.collect_shard(collector, made))[1]
    result["collect_cpu_us_per_token"] = 1e6 * result["collect_cpu_s"] / codes.rows
    told("pass", result)
    _, result["save_cpu_s"] = timed(lambda: collector.save(folder / "state.safetensors", 0))
    result["state_gb"] = (folder / "state.safetensors").stat().st_size / 1e9
    told("state", result)
    pools, result["pool_cpu_s"] = timed(lambda: Pool.load(codes, recipe.pool, recipe.test_fraction, 0))  # type: ignore[arg-type]
    told("pool", result)
    rows, result["write_cpu_s"] = timed(lambda: write(folder, collector, recipe, *pools))
    told("tables", result)
    return result | rows


def told(what: str, result: dict[str, Any]) -> None:
    """Note the largest memory so far, and say where the benchmark is."""
    result[f"rss_gb_{what}"] = peak_bytes() / 1e9
    print(f"{what}: {result[f'rss_gb_{what}']:.2f} GB at most, {time.process_time():.0f} CPU s", file=sys.stderr)


def write(folder: Path, collector: Collector, recipe: ExamplesRecipe, train: Pool, test: Pool) -> dict[str, int]:
    """The three tables by latent; number of rows of each."""
    pieces = {
        tables.EXAMPLES: (selection.chosen(collector, recipe), tables.EXAMPLES_SCHEMA),
        tables.NEGATIVES: (selection.negatives(collector, train, recipe.negatives), tables.NEGATIVES_SCHEMA),
        tables.TEST: (selection.tests(collector, test, recipe.test), tables.TEST_SCHEMA),
    }
    return {f"rows_{name}": tables.write_by_latent(folder / name, *what) for name, what in pieces.items()}


def reading(folder: Path, n: int) -> dict[str, float]:
    """Milliseconds to open a file and read one latent, median and 95th percentile."""
    found = {}
    for name in (tables.EXAMPLES, tables.TEST):
        latents = np.random.default_rng(0).integers(0, n, READS)
        seconds = []
        for latent in latents.tolist():
            began = time.perf_counter()
            tables.read_sorted(folder / name, "latent", [latent])
            seconds.append(time.perf_counter() - began)
        found[f"read_ms_{name}"] = [round(1000 * float(np.quantile(seconds, q)), 2) for q in (0.5, 0.95)]
        found[f"mb_{name}"] = round((folder / name).stat().st_size / 1e6, 1)
    return found


def cost(run: Run) -> dict[str, float]:
    """CPU seconds of encoding alone, and of everything that the stages add to it."""
    encoder, recipe = files.load(run.sae_folder), run.recipe.examples
    store = shards.open_shards(capture.open_stage(run, run.recipe.hook_point).require().path)
    n = encoder.config.n
    collector, pairs = Collector(n, examples.plan(run)), PairCounts(0, n, n)
    seconds: dict[str, float] = dict.fromkeys(("encode", "save_codes", "collect", "coactivation"), 0.0)
    with tempfile.TemporaryDirectory() as folder:
        for path in store.paths:
            rows = shards.read(path)
            codes, took = timed(lambda rows=rows: encoding.encode(encoder, rows))
            seconds["encode"] += took
            steps: dict[str, Callable[[], Any]] = {
                "save_codes": lambda codes=codes: codes.save(Path(folder) / "codes.safetensors", n),
                "collect": lambda codes=codes: examples.collect_shard(collector, codes),
                "coactivation": lambda codes=codes: pairs.add(codes),
            }
            for name, step in steps.items():
                seconds[name] += timed(step)[1]
        pools = Pool.load(StoredCodes(encoding.open_stage(run)), recipe.pool, recipe.test_fraction, run.recipe.seed)
        seconds["tables"] = timed(lambda: write(Path(folder), collector, recipe, *pools))[1]
    together = seconds["encode"] + seconds["save_codes"] + seconds["collect"]
    return {
        **seconds,
        "pass_over_encoding": together / seconds["encode"],
        "with_tables_over_encoding": (together + seconds["tables"]) / seconds["encode"],
    }


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` returns, and the CPU seconds it took."""
    began = time.process_time()
    made = work()
    return made, time.process_time() - began


if __name__ == "__main__":
    main()
