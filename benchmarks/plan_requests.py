"""How long 100,000 explanations take to plan: examples read, prompts written, requests chunked within limits.

    python benchmarks/plan_requests.py [--latents 100000] [--provider anthropic]

Makes synthetic examples on the disk first, which is not counted. Prints one JSON object: seconds (wall and CPU), peak
memory before and after, requests, bytes, and the chunks. The memory is that of the whole process, libraries included.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from memory import peak_bytes

from monosem.interpret import material, tables
from monosem.interpret.prompts import Prompter
from monosem.interpret.providers.open import open_provider
from monosem.recipe import Recipe

SENTENCES, TOKENS, SHOWN, FIRING = 200_000, 27, 20, 4
BLOCK = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=100_000)
    parser.add_argument("--provider", choices=("anthropic", "openai"), default="anthropic")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_examples(Path(folder), arguments.latents)
        print(json.dumps(measure(Path(folder), arguments.latents, arguments.provider)))


def measure(folder: Path, latents: int, provider: str) -> dict[str, object]:
    """Plan an explanation for each of `latents`."""
    recipe = Recipe.model_validate({"explain": {"provider": provider, "model": "m"}})
    prompter, before = Prompter(recipe.explain), peak_bytes()
    wall, cpu = time.perf_counter(), time.process_time()
    with open_provider(recipe, folder / "asked", "0" * 64) as post:
        read = material.read(folder, range(latents), "max", SHOWN)
        planned = post.plan(prompter.request(f"00000000-L{found.latent}-max-a1", found.lines) for found in read)
        return {
            "requests": planned,
            "seconds": round(time.perf_counter() - wall, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak_mb_before": round(before / 2**20, 1),
            "peak_mb": round(peak_bytes() / 2**20, 1),
            "bytes": sum(chunk.bytes for chunk in post.book.chunks.values()),
            "chunks": [[chunk.count, chunk.bytes] for chunk in post.book.chunks.values()],
        }


def make_examples(folder: Path, latents: int) -> None:
    """The three files of `examples/`: random words, every latent with its best sentences."""
    draw = np.random.default_rng(0)
    words = np.array(["".join(draw.choice(list("abcdefghijklmnopqrstuvwxyz"), 4)) for _ in range(5000)])
    starts, ends = np.arange(TOKENS) * 5, np.arange(TOKENS) * 5 + 4
    with pq.ParquetWriter(folder / tables.SENTENCES, tables.SENTENCES_SCHEMA, compression="zstd") as writer:
        for first in range(0, SENTENCES, 10_000):
            texts = [" ".join(row) for row in draw.choice(words, (10_000, TOKENS))]
            numbers = np.arange(first, first + 10_000)
            spans = [pa.array([list(span)] * 10_000, pa.list_(pa.int32())) for span in (starts, ends)]
            unread = [pa.array([[]] * 10_000, pa.list_(kind)) for kind in (pa.int32(), pa.int16())]  # tokens, missing
            columns = [numbers, numbers, [""] * 10_000, [""] * 10_000, texts, [False] * 10_000, *spans, *unread]
            table = pa.Table.from_arrays([pa.array(column) for column in columns], names=tables.SENTENCES_SCHEMA.names)
            writer.write_table(table.cast(tables.SENTENCES_SCHEMA), row_group_size=1024)
    with pq.ParquetWriter(folder / tables.EXAMPLES, tables.EXAMPLES_SCHEMA, compression="zstd") as writer:
        for first in range(0, latents, BLOCK):
            latent = np.repeat(np.arange(first, min(first + BLOCK, latents)), SHOWN)
            offsets = pa.array((np.arange(len(latent) + 1) * FIRING).astype(np.int32))
            position = np.sort(draw.integers(0, TOKENS // FIRING, (len(latent), FIRING))) + np.arange(FIRING) * 6
            value = draw.random((len(latent), FIRING), dtype=np.float32)
            columns = [
                pa.array(latent.astype(np.int32)),
                pa.array(["max"] * len(latent)),
                pa.array(np.tile(np.arange(SHOWN, dtype=np.int16), len(latent) // SHOWN)),
                pa.array(draw.integers(0, SENTENCES, len(latent))),
                pa.array(value.max(1)),
                pa.ListArray.from_arrays(offsets, pa.array(position.reshape(-1).astype(np.int16))),
                pa.ListArray.from_arrays(offsets, pa.array(value.reshape(-1))),
                pa.array([[]] * len(latent), pa.list_(pa.int32())),  # tokens, which no prompt shows
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=tables.EXAMPLES_SCHEMA), row_group_size=8192)
    fired = pa.table({"fire_count": np.ones(latents, np.int64), "max": np.ones(latents, np.float32)})
    pq.write_table(fired, folder / tables.LATENTS)


if __name__ == "__main__":
    main()
