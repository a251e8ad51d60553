"""The stage `examples`: one pass over the codes finds the sentences that show what each latent reacts to.

Flow: the files of codes, in the order of the corpus, go through a `Collector`, which keeps the best sentences, draws
others, and counts; then the tables are written, with the text and the token spans of the sentences that occur. An
interrupted pass goes on from its last saved state. Several ranks read a part of the files each, and rank 0 merges what
they kept. The language model does not run: only its tokenizer is asked.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from monosem import progress
from monosem.corpus import sentences
from monosem.errors import RecipeError
from monosem.interpret import encoding, selection, tables
from monosem.interpret.codes import Codes, StoredCodes
from monosem.interpret.collect import Collector, Plan
from monosem.interpret.draws import is_test
from monosem.interpret.negatives import Pool
from monosem.lm.source import open_tokenizer
from monosem.lm.tokenizer import Tokenizer, TokenSpans
from monosem.ranks import WEEK
from monosem.run import Run, Shard, Stage

STATES = "state-*.safetensors"  # one for each rank, while the stage is made
SAVE_SECONDS = 60.0  # work that a crash may cost
SAVE_SHARE = 0.05  # of the time that may go into saving
BLOCK_ENTRIES = 1 << 21  # codes that are grouped at once
SPAN_SENTENCES = 4096  # sentences that are tokenized at once
MOST_TOKENS = np.iinfo(np.int16).max  # positions are stored as int16
BY_LATENT = (tables.EXAMPLES, tables.NEGATIVES, tables.TEST)
FILES = (*BY_LATENT, tables.SENTENCES, tables.LATENTS)


def open_stage(run: Run) -> Stage:
    """The stage's folder; writes nothing.

    Raises:
        RunError: its files were made with another recipe or SAE.
    """
    part = {**run.recipe.examples.fingerprint_part(), "seed": run.recipe.seed}
    return run.stage(run.folder("examples"), part, [encoding.open_stage(run)])


def make(run: Run) -> Stage:
    """Write the five tables of examples/; the codes are made first, where they are not there yet.

    Raises:
        RunError: a stage that it reads is missing.
        StoreError: the SAE does not fit the activations.
        RecipeError: sentences are longer than positions can count.
    """
    stage = open_stage(run)
    if stage.complete:
        return stage
    if run.recipe.corpus.max_tokens > MOST_TOKENS:
        raise RecipeError(f"corpus.max_tokens = {run.recipe.corpus.max_tokens}: examples need at most {MOST_TOKENS}")
    codes = StoredCodes(encoding.make(run))
    if not set(FILES) <= {shard.name for shard in stage.begin(run.ranks)}:
        stage.shards = []
        collector = _collect(run, stage.path, codes)
        if run.ranks.first:
            _write(run, stage, codes, collector)
    run.ranks.barrier("examples", WEEK)
    written = {shard.name: shard for shard in stage.collect()}
    if run.ranks.first:
        for state in stage.path.glob(STATES):
            state.unlink()
    stage.finish(
        rows=written[tables.EXAMPLES].rows,
        negatives=written[tables.NEGATIVES].rows,
        test=written[tables.TEST].rows,
        sentences=written[tables.SENTENCES].rows,
        dead=written[tables.LATENTS].info["dead"],
    )
    return stage


def plan(run: Run) -> Plan:
    """What the recipe asks to be kept for each latent."""
    recipe = run.recipe.examples
    return Plan(
        recipe.top,
        recipe.aggregations,
        selection.sample_size(recipe),
        recipe.test,
        recipe.test_fraction,
        run.recipe.seed,
    )


def _collect(run: Run, folder: Path, codes: StoredCodes) -> Collector:
    """Each rank reads a part of the codes; the first one has all that they kept."""
    ranks, wanted = run.ranks, plan(run)
    states = [folder / STATES.replace("*", f"{rank}-of-{ranks.world}") for rank in range(ranks.world)]
    collector = collect(codes, codes.shards[ranks.rank :: ranks.world], wanted, states[ranks.rank])
    if ranks.world > 1:
        collector.save(states[ranks.rank], shards=len(codes.shards[ranks.rank :: ranks.world]))
        ranks.barrier("codes of all ranks", WEEK)
    for state in states[1:] if ranks.first else []:
        other = Collector(codes.n, wanted)
        other.restore(state)
        collector.merge(other)
    return collector


def collect(codes: StoredCodes, shards: Sequence[Shard], wanted: Plan, state: Path) -> Collector:
    """Read these files of codes once; goes on from `state` if it is there, and keeps it up to date."""
    collector = Collector(codes.n, wanted)
    done = collector.restore(state) if state.exists() else 0
    saved, cost = time.monotonic(), 0.0
    total = sum(shard.rows for shard in shards)
    with progress.progress("examples", total, "activations", done=collector.rows) as advance:
        for number, shard in enumerate(shards[done:], start=done + 1):
            collect_shard(collector, codes.read(shard))
            advance(shard.rows)
            if time.monotonic() - saved > max(SAVE_SECONDS, cost / SAVE_SHARE):
                began = time.monotonic()
                collector.save(state, shards=number)
                saved = time.monotonic()
                cost = saved - began
    return collector


def collect_shard(collector: Collector, codes: Codes) -> None:
    """Hand a file of codes to the collector, in blocks of whole sentences."""
    for block in codes.blocks(BLOCK_ENTRIES):
        collector.add(block)


def _write(run: Run, stage: Stage, codes: StoredCodes, collector: Collector) -> None:
    recipe = run.recipe.examples
    train, test = Pool.load(codes, recipe.pool, recipe.test_fraction, run.recipe.seed)
    pieces = (
        (selection.chosen(collector, recipe), tables.EXAMPLES_SCHEMA),
        (selection.negatives(collector, train, recipe.negatives), tables.NEGATIVES_SCHEMA),
        (selection.tests(collector, test, recipe.test), tables.TEST_SCHEMA),
    )
    for name, (piece, schema) in zip(BY_LATENT, pieces, strict=True):
        stage.add_shard(name, tables.write_by_latent(stage.path / name, piece, schema))
    occurring = _occurring(stage.path)
    written = tables.write_sentences(stage.path / tables.SENTENCES, _sentences(run, codes, occurring))
    stage.add_shard(tables.SENTENCES, written)
    dead = tables.write_latents(stage.path / tables.LATENTS, collector)
    stage.add_shard(tables.LATENTS, collector.n, dead=dead)


def _occurring(folder: Path) -> NDArray[np.int64]:
    """The sentences of the tables, each once."""
    found = np.zeros(0, np.int64)
    for name in BY_LATENT:
        with pq.ParquetFile(folder / name) as file:
            for batch in file.iter_batches(columns=["sentence"]):
                found = np.union1d(found, batch["sentence"].to_numpy())
    return found


def _sentences(run: Run, codes: StoredCodes, occurring: NDArray[np.int64]) -> Iterator[pa.Table]:
    """Rows of `sentences.parquet`, in order."""
    source, tokenizer = sentences.Sentences(run.folder("sentences")), open_tokenizer(run.recipe.model)
    for shard in codes.shards:
        places = np.flatnonzero(np.isin(codes.sentences_of(shard), occurring))
        for start in range(0, len(places), SPAN_SENTENCES):
            stored = codes.take(shard, places[start : start + SPAN_SENTENCES])
            table = source.take(stored.sentence, columns=("sentence", "document", "title", "label", "text"))
            test = is_test(stored.sentence, run.recipe.examples.test_fraction, run.recipe.seed)
            yield _with_spans(
                table.append_column("test", pa.array(test)), stored, tokenizer, run.recipe.corpus.max_tokens
            )


def _with_spans(table: pa.Table, stored: Codes, tokenizer: Tokenizer, max_tokens: int) -> pa.Table:
    """Sentences with the character spans of the tokens that the model read, and those that the store does not hold."""
    spans = [TokenSpans(*(of[:max_tokens] for of in tokenizer.spans(text))) for text in table["text"].to_pylist()]
    positions = np.split(stored.position, np.cumsum(stored.length)[:-1])
    missing = [np.setdiff1d(np.arange(len(span.ids)), held) for span, held in zip(spans, positions, strict=True)]
    columns = {
        "starts": pa.array([span.starts for span in spans], type=pa.list_(pa.int32())),
        "ends": pa.array([span.ends for span in spans], type=pa.list_(pa.int32())),
        "tokens": pa.array([span.ids for span in spans], type=pa.list_(pa.int32())),
        "missing": pa.array(missing, type=pa.list_(pa.int16())),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table
