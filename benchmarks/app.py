"""How fast the page answers: its start, cards and searches on a run, and on a synthetic one of 65,536 latents.

    python benchmarks/app.py runs/demo             # start, cards and searches of a real run
    python benchmarks/app.py --synthetic FOLDER    # writes 65,536 latents with 6.5 M examples, then the same

Prints one JSON object: seconds, and the largest memory of the process in MB. Every part runs in a process of its own.
`click` is what a reader waits for in Chromium, from the click on a latent of the list until its card is drawn: the
first after the page has opened, and the median of those that follow. Needs Playwright, and `chromium` on the PATH.
"""

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from memory import peak_bytes

from monosem.recipe import Recipe
from monosem.run import Run

N, TOP, SENTENCES, TOKENS = 65_536, 50, 1_000_000, 27
WAYS = ("max", "mean")  # 65,536 x 2 x 50 = 6.55 M examples
LATENTS_AT_ONCE = 1024
CARDS = 20
CLICK = """(place) => new Promise((done) => {
  const link = document.querySelectorAll(".ms-hits a")[place];
  const began = performance.now();
  new MutationObserver((_, watch) => {
    if (!document.querySelector(`[data-latent-shown="${link.dataset.latent}"]`)) return;
    watch.disconnect();
    requestAnimationFrame(() => done(performance.now() - began));
  }).observe(document.getElementById("ms-card"), { childList: true, subtree: true, attributes: true });
  link.click();
})"""
WORDS = [
    f"{first}{second}" for first in "bdfgklmnprst" for second in ("an", "el", "ir", "os", "um", "ent", "ing", "ory")
]


def synthetic(folder: Path) -> None:
    """Write a run's examples, explanations and evaluation as their stages would, sorted and in small row groups."""
    folder.mkdir(parents=True, exist_ok=True)
    Run(folder, Recipe(name=folder.name)).save_recipe()
    (folder / "examples").mkdir(exist_ok=True)
    (folder / "explanations").mkdir(exist_ok=True)
    (folder / "evaluation").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    _sentences(folder / "examples" / "sentences.parquet", rng)
    _examples(folder / "examples" / "examples.parquet", rng)
    counts = rng.integers(100, 100_000, N)
    figures = {
        "latent": np.arange(N, dtype=np.int32),
        "fire_count": counts,
        "density": counts / 27_000_000,
        "max": rng.random(N, dtype=np.float32) + 1,
        "mean": rng.random(N, dtype=np.float32),
        "sentence_count": counts // 2,
    }
    pq.write_table(pa.table(figures), folder / "examples" / "latents.parquet", compression="zstd")
    tokens = [[f"token{place}" for place in range(20)]] * N
    output = {"latent": figures["latent"], "output_score": rng.random(N), "raised": tokens, "lowered": tokens}
    _write(folder / "evaluation" / "latents.parquet", output, 1024)
    _relations(folder, rng)
    with (folder / "explanations" / "explanations.jsonl").open("w", encoding="utf-8") as file:
        for latent in range(N):
            text = f"about {' '.join(rng.choice(WORDS, 12))}"
            row = {"latent": latent, "explanation": text, "certainty": float(rng.random()), "provider": "synthetic"}
            file.write(json.dumps(row | {"provenance": {"prompt": "x" * 200}}) + "\n")


def _relations(folder: Path, rng: np.random.Generator) -> None:
    """Co-activation, neighbours, groups and scores, as many rows a latent as the demo has."""
    for name, other, count in (("partners", "partner", 35), ("cosines", "neighbour", 20)):
        latents = np.repeat(np.arange(N, dtype=np.int32), count)
        table: dict[str, Any] = {"latent": latents, "rank": np.tile(np.arange(count, dtype=np.int16), N)}
        table |= {other: rng.integers(0, N, len(latents)).astype(np.int32)}
        for figure in ("cosine",) if name == "cosines" else ("conditional", "reverse", "jaccard", "pmi"):
            table[figure] = rng.random(len(latents), dtype=np.float32)
        _write(folder / "coactivation" / f"{name}.parquet", table | {"count": latents.astype(np.int64)}, 8192)
    ngram = {"text": "word", "place": "at", "words": 1, "z": 9.0, "share": 0.5, "corpus_share": 0.01}
    cluster = {"share": 0.5, "words": ["one", "two"], "sentences": list(range(10))}
    random = {"monosemanticity": rng.random(N), "monosemanticity_random": rng.random(N), "token_only": [False] * N}
    groups = {"latent": np.arange(N, dtype=np.int32), "ngrams": [[ngram] * 12] * N, "clusters": [[cluster] * 4] * N}
    _write(folder / "groups" / "groups.parquet", groups | random | {"token": ["word"] * N}, 1024)
    figures = ["auroc", "balanced_accuracy", *(f"decile_{tenth:02d}" for tenth in range(1, 11)), "f1", "hard"]
    scored = [(score, figure) for score in ("agreement", "lexical") for figure in figures]
    scores: dict[str, Any] = {"latent": np.repeat(np.arange(N, dtype=np.int32), len(scored))}
    scores |= {"score": [score for score, _ in scored] * N, "figure": [figure for _, figure in scored] * N}
    for column in ("value", "low", "high", "shuffled", "shuffled_p95", "frequency", "chance"):
        scores[column] = rng.random(N * len(scored), dtype=np.float32)
    _write(folder / "scores" / "scores.parquet", scores, 8192)
    (folder / "scores" / "scores.json").write_text(json.dumps({"summary": {}, "scores": {}}))


def _write(path: Path, table: dict, rows: int) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(table), path, compression="zstd", row_group_size=rows)


def _sentences(path: Path, rng: np.random.Generator) -> None:
    words = np.array(WORDS)
    with pq.ParquetWriter(path, _schema_of_sentences(), compression="zstd") as writer:
        for start in range(0, SENTENCES, 50_000):
            chosen = rng.integers(0, len(words), (50_000, TOKENS))
            texts = [" ".join(words[row]) for row in chosen]
            lengths = np.char.str_len(words)[chosen] + 1
            ends = lengths.cumsum(1) - 1
            starts = ends - lengths + 1
            table = {
                "sentence": np.arange(start, start + 50_000),
                "document": np.arange(start, start + 50_000) // 10,
                "title": ["title"] * 50_000,
                "label": ["label"] * 50_000,
                "text": texts,
                "starts": list(starts.astype(np.int32)),
                "ends": list(ends.astype(np.int32)),
            }
            writer.write_table(pa.table(table, schema=_schema_of_sentences()), row_group_size=1024)


def _examples(path: Path, rng: np.random.Generator) -> None:
    from monosem.interpret.tables import EXAMPLES_SCHEMA

    names = [field.name for field in EXAMPLES_SCHEMA if field.name != "tokens"]
    schema = pa.schema([EXAMPLES_SCHEMA.field(name) for name in names])
    rows = LATENTS_AT_ONCE * len(WAYS) * TOP
    offsets = pa.array(np.arange(0, 3 * rows + 1, 3, dtype=np.int32))
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, N, LATENTS_AT_ONCE):
            positions = np.sort(rng.integers(0, TOKENS, (rows, 3)), axis=1).astype(np.int16)
            columns = [
                pa.array(np.repeat(np.arange(first, first + LATENTS_AT_ONCE, dtype=np.int32), len(WAYS) * TOP)),
                pa.array(np.tile(np.repeat(np.array(WAYS, dtype=object), TOP), LATENTS_AT_ONCE)),
                pa.array(np.tile(np.arange(TOP, dtype=np.int16), LATENTS_AT_ONCE * len(WAYS))),
                pa.array(rng.integers(0, SENTENCES, rows)),
                pa.array(rng.random(rows, dtype=np.float32)),
                pa.ListArray.from_arrays(offsets, pa.array(positions.reshape(-1))),
                pa.ListArray.from_arrays(offsets, pa.array(rng.random(3 * rows, dtype=np.float32))),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=8192)


def _schema_of_sentences() -> pa.Schema:
    integers, text = pa.list_(pa.int32()), pa.string()
    return pa.schema(
        {"sentence": pa.int64(), "document": pa.int64(), "title": text, "label": text, "text": text}
        | {"starts": integers, "ends": integers}
    )


def cards(folder: Path) -> dict[str, float]:
    """The first card of a fresh process, others, the first search, others."""
    from monosem.app.page.explore_views import card_view, hits_view
    from monosem.app.page.library import Library
    from monosem.app.page.searching import Query

    run = Library([folder]).run(folder.name)
    found = {"first_card": _seconds(lambda: card_view(run, 5))}
    found["first_card_cpu"] = time.process_time()
    n = run.files.figures().n
    drawn = np.random.default_rng(1).integers(0, n, CARDS).tolist()
    found["card"] = float(np.median([_seconds(lambda latent=latent: card_view(run, latent)) for latent in drawn]))
    found["first_search"] = _seconds(lambda: hits_view(run, Query("music"), 60, None))
    found["search"] = float(np.median([_seconds(lambda: hits_view(run, Query("fan"), 60, None)) for _ in range(5)]))
    found["cpu"] = time.process_time()
    return found


def start(folder: Path) -> dict[str, float]:
    """From the first import to a page that answers."""
    from monosem.app.page import serve
    from monosem.app.page.library import Library

    began = time.perf_counter()
    with serve.listen("127.0.0.1", 0):
        serve.build_server(Library([folder]), "127.0.0.1", None)
    return {"start": time.perf_counter() - began, "cpu": time.process_time()}


def click(folder: Path) -> dict[str, float]:
    """From the click to the card, in a browser; the page's own first card is drawn by then."""
    from playwright.sync_api import sync_playwright

    from monosem.app.page import serve
    from monosem.app.page.library import Library

    library = Library([folder])
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with serve.listen("127.0.0.1", 0) as listening, sync_playwright() as playwright:
        server = serve.build_server(library, "127.0.0.1", None)
        threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
        library.warm()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{listening.getsockname()[1]}")
        page.locator("#ms-card .ms-card").wait_for(timeout=60_000)
        waits = [page.evaluate(CLICK, place) / 1000 for place in range(1, CARDS + 1)]
        browser.close()
        server.should_exit = True
    return {"first_click": waits[0], "click": float(np.median(waits[1:])), "cpu": time.process_time()}


def _seconds(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", type=Path)
    parser.add_argument("--synthetic", action="store_true", help="write RUN first, unless it is there")
    parser.add_argument("--part", choices=["cards", "start", "click"], help="measure one part in this process")
    arguments = parser.parse_args()
    if arguments.part:
        found = {"cards": cards, "start": start, "click": click}[arguments.part](arguments.run)
        memory = peak_bytes() / 2**20
        print(json.dumps({name: round(value, 4) for name, value in found.items()} | {"memory_mb": round(memory)}))
        return
    if arguments.synthetic and not (arguments.run / "evaluation" / "latents.parquet").exists():
        synthetic(arguments.run)
    told = {}
    for part in ("start", "cards", "click"):
        command = [sys.executable, __file__, str(arguments.run), "--part", part]
        told[part] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
