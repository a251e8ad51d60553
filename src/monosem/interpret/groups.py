"""The stage `groups`: what stands out in each latent's sentences, and whether they are alike.

Flow: every latent's own token is counted in one pass over the codes; then, a few thousand latents at a time, n-grams in
its examples are compared with the corpus, and the examples with each other. The language model does not run: only its
tokenizer is asked.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from monosem import progress
from monosem.atomic import atomic_path
from monosem.interpret import encoding, examples, grouping, lexicons, tables, token_only
from monosem.interpret.codes import StoredCodes
from monosem.interpret.grouping import Group
from monosem.interpret.lexicons import Batch
from monosem.interpret.tables import GROUPS
from monosem.lm.source import open_tokenizer
from monosem.recipe import GroupsRecipe
from monosem.run import Run, Stage

TOKEN_ONLY = 0.9  # of its firings on the token, and of the token's occurrences
ROWS_IN_GROUP = 1024
AGGREGATIONS = ("max", "quantile", "random")
SCHEMA = pa.schema(
    [
        ("latent", pa.int32()),
        (
            "ngrams",
            pa.list_(
                pa.struct(
                    [
                        ("text", pa.string()),
                        ("place", pa.string()),
                        ("words", pa.int32()),
                        ("z", pa.float32()),
                        ("share", pa.float32()),
                        ("corpus_share", pa.float32()),
                    ]
                )
            ),
        ),
        (
            "clusters",
            pa.list_(
                pa.struct(
                    [
                        ("share", pa.float32()),
                        ("words", pa.list_(pa.string())),
                        ("sentences", pa.list_(pa.int64())),
                    ]
                )
            ),
        ),
        ("monosemanticity", pa.float32()),
        ("monosemanticity_random", pa.float32()),
        ("token", pa.string()),
        ("token_share", pa.float32()),
        ("token_rate", pa.float32()),
        ("token_only", pa.bool_()),
    ]
)


def open_stage(run: Run) -> Stage:
    """The stage's folder; writes nothing.

    Raises:
        RunError: its files were made with another recipe or SAE.
    """
    part = {**run.recipe.groups.fingerprint_part(), "seed": run.recipe.seed}
    return run.stage(run.folder("groups"), part, [examples.open_stage(run)])


def make(run: Run) -> Stage:
    """Write `groups.parquet`.

    Raises:
        RunError: there are no examples, or they are damaged.
    """
    stage = open_stage(run)
    if stage.complete:
        return stage
    examples.open_stage(run).require()
    stage.begin()
    stage.shards = []
    codes = StoredCodes(encoding.open_stage(run))
    tokens = _token_columns(run, codes)
    written = 0
    path = stage.path / GROUPS
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for rows in _rows(run, codes.n):
            table = pa.Table.from_pylist(rows, schema=SCHEMA)
            for name, column in tokens.items():
                place = SCHEMA.get_field_index(name)
                table = table.set_column(place, SCHEMA.field(name), column[written : written + len(rows)])
            writer.write_table(table, row_group_size=ROWS_IN_GROUP)
            written += len(rows)
    stage.add_shard(GROUPS, written)
    stage.finish(latents=written, token_only=int(np.sum(tokens["token_only"].to_numpy(zero_copy_only=False))))
    return stage


def _rows(run: Run, n: int) -> Iterator[list[dict[str, Any]]]:
    """What is read off the examples, a batch of latents at a time."""
    aggregations = [name for name in AGGREGATIONS if name in (*run.recipe.examples.aggregations, "quantile", "random")]
    with progress.progress("groups", n, "latents") as advance:
        for batch in lexicons.batches(run, aggregations):
            rows = []
            for latent in batch.latents.tolist():
                rows.append(_row(latent, batch, run.recipe.groups, run.recipe.seed))
                advance(1)
            yield rows


def _row(latent: int, batch: Batch, recipe: GroupsRecipe, seed: int) -> dict[str, Any]:
    found = batch.examples.get(latent, [])
    alike = grouping.compare(batch.lexicon, found, recipe.similarity, (seed, latent))
    return {
        "latent": latent,
        "ngrams": [ngram._asdict() for ngram in batch.lexicon.over_represented(found, recipe.ngrams)],
        "clusters": [_cluster(group, batch.sentence) for group in alike.groups],
        "monosemanticity": alike.monosemanticity,
        "monosemanticity_random": alike.random,
    }


def _cluster(group: Group, sentence: NDArray[np.int64]) -> dict[str, Any]:
    return {"share": group.share, "words": group.words, "sentences": sentence[group.places].tolist()}


def _token_columns(run: Run, codes: StoredCodes) -> dict[str, pa.Array]:
    """The columns of each latent's own token; null for a latent that never fires."""
    classes = token_only.Classes.of(open_tokenizer(run.recipe.model))
    own = np.full(codes.n, token_only.NONE, dtype=np.int32)
    for start in range(0, codes.n, lexicons.LATENTS_AT_ONCE):
        latents = np.arange(start, min(start + lexicons.LATENTS_AT_ONCE, codes.n))
        rows = tables.read_sorted(run.folder("examples") / tables.EXAMPLES, "latent", latents)
        tokens = rows["tokens"].combine_chunks()
        latent = np.repeat(rows["latent"].to_numpy().astype(np.int64), np.diff(tokens.offsets.to_numpy()))
        found = token_only.most_frequent(codes.n, latent, classes.of_id[tokens.flatten().to_numpy()])
        own[latents] = found[latents]
    with progress.progress("tokens", codes.rows, "activations") as advance:
        counted = token_only.count(codes, classes, own, advance)
    dead = own == token_only.NONE
    only = (counted.share >= TOKEN_ONLY) & (counted.rate >= TOKEN_ONLY)
    return {
        "token": pa.array([None if number < 0 else classes.names[number] for number in own], pa.string()),
        "token_share": pa.array(counted.share.astype(np.float32), mask=dead),
        "token_rate": pa.array(counted.rate.astype(np.float32), mask=dead),
        "token_only": pa.array(only & ~dead),
    }
