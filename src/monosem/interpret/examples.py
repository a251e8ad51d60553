"""The stage `examples`: one pass over the stored activations finds the sentences that show what each latent reacts to.

Flow: shards of activations, in the order of the corpus, are encoded by the SAE in batches; a `Collector` keeps the best
sentences and the statistics; then the tables are written, with the text and the token spans of the sentences that
occur. An interrupted pass goes on from its last saved state. The language model does not run: only its tokenizer is
asked.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from monosem import capture, finetune, progress
from monosem.corpus import sentences
from monosem.errors import RecipeError, StoreError
from monosem.interpret import tables
from monosem.interpret.collect import Collector
from monosem.lm.source import open_tokenizer
from monosem.lm.tokenizer import Tokenizer
from monosem.run import Run, Stage
from monosem.sae import files
from monosem.sae.autoencoder import Autoencoder
from monosem.store import shards

STATE = "state.safetensors"
SAVE_SECONDS = 60.0  # work that a crash may cost
ENCODE_ROWS = 4096
BLOCK_ENTRIES = 1 << 21  # codes that are grouped at once
SPAN_SENTENCES = 4096  # sentences that are tokenized at once
MOST_TOKENS = np.iinfo(np.int16).max  # positions are stored as int16


def open_stage(run: Run) -> Stage:
    """The stage's folder; writes nothing.

    Raises:
        RunError: its files were made with another recipe.
    """
    upstream = [capture.open_stage(run, run.recipe.hook_point), finetune.sae_stage(run)]
    return run.stage(run.folder("examples"), run.recipe.examples.fingerprint_part(), upstream)


def make(run: Run) -> Stage:
    """Write `examples.parquet`, `sentences.parquet` and `latents.parquet`.

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
    activations = capture.open_stage(run, run.recipe.hook_point).require()
    finetune.sae_stage(run).require()
    if not {tables.EXAMPLES, tables.SENTENCES, tables.LATENTS} <= {shard.name for shard in stage.begin()}:
        stage.shards = []
        collector = _pass(run, stage.path / STATE, activations)
        _write(run, stage, collector)
    written = {shard.name: shard for shard in stage.shards}
    (stage.path / STATE).unlink(missing_ok=True)
    stage.finish(
        rows=written[tables.EXAMPLES].rows,
        sentences=written[tables.SENTENCES].rows,
        dead=written[tables.LATENTS].info["dead"],
    )
    return stage


def _pass(run: Run, state: Path, activations: Stage) -> Collector:
    """Encode every stored activation once."""
    recipe = run.recipe.examples
    device = run.recipe.train.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = files.load(run.sae_folder, device)
    if encoder.config.d != activations.manifest.counts["d"]:
        raise StoreError(
            f"{activations.path}: activations of width {activations.manifest.counts['d']} do not fit an SAE of width "
            f"{encoder.config.d}; train it on this store"
        )
    collector = Collector(encoder.config.n, recipe.top, recipe.aggregations)
    done = collector.restore(state) if state.exists() else 0
    saved = time.monotonic()
    store = shards.open_shards(activations.path)
    with progress.progress("examples", store.rows, "activations", done=collector.rows) as advance:
        for number, path in enumerate(store.paths[done:], start=done + 1):
            collect_shard(collector, encoder, shards.read(path), advance)
            if time.monotonic() - saved > SAVE_SECONDS:
                collector.save(state, shards=number)
                saved = time.monotonic()
    return collector


def collect_shard(
    collector: Collector, encoder: Autoencoder, rows: shards.Rows, advance: Callable[[int], None]
) -> None:
    """Encode a shard and hand its codes to the collector, in blocks of whole sentences.

    Blocks begin anew in each shard, so that a resumed pass makes the same batches.
    """
    sentence, position = rows.sentence.numpy(), rows.position.numpy()
    for block in whole_sentences(sentence, max(1, BLOCK_ENTRIES // encoder.config.k)):
        x = rows.activations[block]
        codes = [encoder.encode(part.to(encoder.W_enc.device)) for part in x.split(ENCODE_ROWS)]
        values = torch.cat([part.values for part in codes]).cpu().numpy()
        indices = torch.cat([part.indices for part in codes]).cpu().numpy()
        collector.add(values, indices, sentence[block], position[block])
        advance(len(x))


def whole_sentences(sentence: NDArray[np.int64], rows: int) -> Iterator[slice]:
    """Slices of about `rows` rows that never part a sentence; `sentence` is ascending."""
    start = 0
    while start < len(sentence):
        stop = min(start + rows, len(sentence))
        stop = int(np.searchsorted(sentence, sentence[stop - 1], side="right"))
        yield slice(start, stop)
        start = stop


def _write(run: Run, stage: Stage, collector: Collector) -> None:
    stage.add_shard(tables.EXAMPLES, tables.write_examples(stage.path / tables.EXAMPLES, collector))
    parts = [part.sentence for aggregation in collector.aggregations for part in collector.parts(aggregation)]
    occurring = np.unique(np.concatenate(parts))
    source = sentences.Sentences(run.folder("sentences"))
    tokenizer = open_tokenizer(run.recipe.model)
    pieces = _with_spans(source, occurring, tokenizer, run.recipe.corpus.max_tokens)
    stage.add_shard(tables.SENTENCES, tables.write_sentences(stage.path / tables.SENTENCES, pieces))
    dead = tables.write_latents(stage.path / tables.LATENTS, collector)
    stage.add_shard(tables.LATENTS, collector.n, dead=dead)


def _with_spans(
    source: sentences.Sentences, occurring: NDArray[np.int64], tokenizer: Tokenizer, max_tokens: int
) -> Iterator[pa.Table]:
    """The sentences that occur, with the character spans of the tokens that the model read."""
    for start in range(0, len(occurring), SPAN_SENTENCES):
        wanted = occurring[start : start + SPAN_SENTENCES]
        table = source.take(wanted, columns=("sentence", "document", "title", "label", "text"))
        spans = [tokenizer.spans(text) for text in table["text"].to_pylist()]
        columns = {name: table[name] for name in table.column_names}
        columns["starts"] = pa.array([span.starts[:max_tokens] for span in spans], type=pa.list_(pa.int32()))
        columns["ends"] = pa.array([span.ends[:max_tokens] for span in spans], type=pa.list_(pa.int32()))
        yield pa.table(columns)
