"""The stage `coactivation`: which latents fire on the same tokens, and which point the same way.

Flow: for one range of latents after the other, as many as fit into memory, all codes are read and every pair is
counted; of each latent's row only its best partners are kept. Neighbours by decoder cosine come from the SAE alone;
clusters from both. An interrupted stage goes on with the ranges that are missing; several ranks share them.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from monosem.atomic import atomic_path
from monosem.interpret import encoding
from monosem.interpret.codes import Codes, StoredCodes
from monosem.interpret.counting import PairCounts
from monosem.interpret.draws import pool_order
from monosem.interpret.linkage import average_linkage
from monosem.interpret.ranking import highest
from monosem.interpret.tables import CLUSTERS, COSINES, PARTNERS, ROWS_IN_GROUP
from monosem.ranks import WEEK
from monosem.recipe import CoactivationRecipe
from monosem.run import Run, Stage
from monosem.sae import files

TABLE_BYTES = 1 << 30  # of counts that are held at once
BLOCK_ENTRIES = 1 << 24  # codes that are counted at once
COSINE_ROWS = 1024  # latents that are compared with all others at once
PMI_COUNT = 5  # tokens that two latents must share to be ranked by PMI
PARTNERS_SCHEMA = pa.schema(
    [
        ("latent", pa.int32()),
        ("rank", pa.int16()),
        ("partner", pa.int32()),
        ("count", pa.int64()),
        ("conditional", pa.float32()),
        ("reverse", pa.float32()),
        ("jaccard", pa.float32()),
        ("pmi", pa.float32()),
    ]
)
COSINES_SCHEMA = pa.schema(
    [("latent", pa.int32()), ("rank", pa.int16()), ("neighbour", pa.int32()), ("cosine", pa.float32())]
)


def open_stage(run: Run) -> Stage:
    """The stage's folder; writes nothing.

    Raises:
        RunError: its files were made with another recipe or SAE.
    """
    part = {**run.recipe.coactivation.fingerprint_part(), "seed": run.recipe.seed}
    return run.stage(run.folder("coactivation"), part, [encoding.open_stage(run)])


def make(run: Run) -> Stage:
    """Write `partners.parquet`, `cosines.parquet` and `clusters.parquet`.

    Raises:
        RunError: the codes have not been made, or are damaged.
    """
    stage = open_stage(run)
    if stage.complete:
        return stage
    codes, recipe = StoredCodes(encoding.open_stage(run)), run.recipe.coactivation
    finished = {shard.name for shard in stage.begin(run.ranks)}
    parts = _count(run, stage, codes, finished)
    if run.ranks.first:
        if PARTNERS not in finished:
            tables = (pq.read_table(part) for part in parts)
            stage.add_shard(PARTNERS, _write(stage.path / PARTNERS, tables, PARTNERS_SCHEMA))
        if COSINES not in finished:
            W_dec = files.load(run.sae_folder).W_dec.detach()
            stage.add_shard(COSINES, _write(stage.path / COSINES, cosines(W_dec, recipe.partners), COSINES_SCHEMA))
        _write_clusters(stage, codes.n, recipe)
        for part in parts:
            part.unlink(missing_ok=True)
    run.ranks.barrier("coactivation", WEEK)
    written = {shard.name: shard for shard in stage.collect()}
    stage.shards = [written[name] for name in (PARTNERS, COSINES, CLUSTERS)]
    stage.finish(partners=written[PARTNERS].rows, **written[CLUSTERS].info)
    return stage


def _count(run: Run, stage: Stage, codes: StoredCodes, finished: set[str]) -> list[Path]:
    """Files with the partners of one range of latents each; ranks take one after the other."""
    recipe = run.recipe.coactivation
    at_once = max(1, TABLE_BYTES // (4 * codes.n))
    starts = {f"partners-{start // at_once:05d}.parquet": start for start in range(0, codes.n, at_once)}
    todo = [] if PARTNERS in finished else [name for name in starts if name not in finished]
    total, done = codes.rows * len(starts), codes.rows * (len(starts) - len(todo))
    with run.ranks.progress("coactivation", total, "activations", done) as advance:
        for claimed in run.ranks.counter("coactivation").numbers(len(todo)):
            name = todo[claimed]
            counts = PairCounts(starts[name], min(starts[name] + at_once, codes.n), codes.n)
            for shard in codes.shards:
                for block in counted(codes.read(shard), recipe.fraction, run.recipe.seed).blocks(BLOCK_ENTRIES):
                    counts.add(block)
                advance(shard.rows)
            stage.add_shard(name, _write(stage.path / name, partners(counts, recipe.partners), PARTNERS_SCHEMA))
    run.ranks.barrier("ranges of all ranks", WEEK)
    return [stage.path / name for name in starts]


def _write_clusters(stage: Stage, n: int, recipe: CoactivationRecipe) -> None:
    clusters = {
        "by_coactivation": _clusters(stage.path / PARTNERS, "partner", "jaccard", n, recipe.cluster_jaccard),
        "by_cosine": _clusters(stage.path / COSINES, "neighbour", "cosine", n, recipe.cluster_cosine),
    }
    table = pa.table({"latent": np.arange(n, dtype=np.int32), **clusters})
    counts = {f"clusters_{name}": int(numbers.max(initial=-1)) + 1 for name, numbers in clusters.items()}
    stage.add_shard(CLUSTERS, _write(stage.path / CLUSTERS, iter([table]), table.schema), **counts)


def counted(codes: Codes, fraction: float, seed: int) -> Codes:
    """The sentences that are counted."""
    return codes if fraction == 1 else codes.chosen(np.flatnonzero(pool_order(codes.sentence, seed) < fraction))


def partners(counts: PairCounts, most: int) -> Iterator[pa.Table]:
    """Rows of `partners.parquet` for the latents of a range, one table a latent; `most` by each measure."""
    fires = counts.fires
    for latent, row in enumerate(counts.table, start=counts.first):
        other = np.flatnonzero(row)
        other = other[other != latent]
        count = row[other].astype(np.int64)
        mine, theirs = int(fires[latent]), fires[other]
        jaccard = count / (mine + theirs - count)
        pmi = np.log(count / theirs * (counts.rows / max(mine, 1)))
        best = np.unique(
            np.concatenate([highest(by, most) for by in (jaccard, count, np.where(count >= PMI_COUNT, pmi, 0))])
        )
        best = best[np.argsort(-jaccard[best], kind="stable")]
        columns = {
            "latent": np.full(len(best), latent, np.int32),
            "rank": np.arange(len(best), dtype=np.int16),
            "partner": other[best].astype(np.int32),
            "count": count[best],
            "conditional": (count / max(mine, 1))[best].astype(np.float32),
            "reverse": (count / theirs)[best].astype(np.float32),
            "jaccard": jaccard[best].astype(np.float32),
            "pmi": pmi[best].astype(np.float32),
        }
        yield pa.table(columns, schema=PARTNERS_SCHEMA)


def cosines(W_dec: torch.Tensor, most: int) -> Iterator[pa.Table]:
    """Rows of `cosines.parquet`: the `most` rows of W_dec [n, d] with the highest cosine to each, itself left out."""
    unit = torch.nn.functional.normalize(W_dec.float(), dim=1)
    for start in range(0, len(unit), COSINE_ROWS):
        some = unit[start : start + COSINE_ROWS] @ unit.T
        some[torch.arange(len(some)), start + torch.arange(len(some))] = -2
        value, other = some.topk(min(most, len(unit) - 1), dim=1)
        latent = np.repeat(np.arange(start, start + len(some), dtype=np.int32), value.shape[1])
        rank = np.tile(np.arange(value.shape[1], dtype=np.int16), len(some))
        columns = [latent, rank, other.reshape(-1).numpy().astype(np.int32), value.reshape(-1).numpy()]
        yield pa.table(columns, schema=COSINES_SCHEMA)


def _clusters(path: Path, other: str, measure: str, n: int, least: float) -> NDArray[np.int32]:
    """Clusters of latents by the pairs of a file; a pair that stands in it twice counts once."""
    table = pq.read_table(path, columns=["latent", other, measure])
    pairs = np.sort(np.stack([table["latent"].to_numpy(), table[other].to_numpy()]), axis=0).astype(np.int64)
    key, place = np.unique(pairs[0] * n + pairs[1], return_index=True)
    similarity = table[measure].to_numpy()[place].astype(np.float64)
    near = similarity > least / 10  # weaker ones hardly move a mean
    return average_linkage(n, key[near] // n, key[near] % n, similarity[near], max(least, 1e-9))


def _write(path: Path, pieces: Iterator[pa.Table], schema: pa.Schema) -> int:
    """Write tables in order, in row groups of equal size; returns the number of rows."""
    written, waiting = 0, [schema.empty_table()]
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for piece in pieces:
            waiting.append(piece)
            if sum(len(table) for table in waiting) >= ROWS_IN_GROUP:
                writer.write_table(pa.concat_tables(waiting), row_group_size=ROWS_IN_GROUP)
                written, waiting = written + sum(len(table) for table in waiting), []
        if rest := sum(len(table) for table in waiting):
            writer.write_table(pa.concat_tables(waiting), row_group_size=ROWS_IN_GROUP)
            written += rest
    return written
