"""Examples and co-activation on the embedded model, against the dense computation."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from monosem import capture, recipe, training
from monosem.corpus import sentences
from monosem.interpret import coactivation, encoding, examples, tables
from monosem.interpret.codes import StoredCodes
from monosem.interpret.draws import is_test
from monosem.run import Run
from monosem.store import prepare

RECIPE = """
[corpus]
sources = ["wikipedia-en"]
max_documents = 1400
[capture]
hook_points = ["6.resid_post"]
shard_mb = 32
[sae]
n = 512
k = 16
normalisation = "dataset"
[train]
epochs = 0.2
lr = 1e-3
batch = 1024
k_aux = 64
"""


@pytest.mark.model
@pytest.mark.slow
def test_five_thousand_real_sentences_equal_the_dense_computation(tmp_path: Path):
    file = tmp_path / "recipe.toml"
    file.write_text(RECIPE)
    run = Run(tmp_path / "run", recipe.load(file))
    run.path.mkdir()
    run.save_recipe()
    for stage in (sentences, capture, prepare, training, encoding, examples, coactivation):
        stage.make(run)
    stored = StoredCodes(encoding.open_stage(run))
    parts = [stored.read(shard) for shard in stored.shards]
    dense = np.zeros((stored.rows, stored.n), dtype=np.float32)
    row = np.repeat(np.arange(stored.rows), np.concatenate([part.active for part in parts]))
    dense[row, np.concatenate([part.latent for part in parts])] = np.concatenate([part.value for part in parts])
    numbers, lengths = (np.concatenate([getattr(part, name) for part in parts]) for name in ("sentence", "length"))
    assert len(numbers) > 5000
    starts = np.cumsum(lengths) - lengths
    scores = {
        "mean": (np.add.reduceat(dense, starts, dtype=np.float64) / lengths[:, None]).astype(np.float32),
        "last": dense[starts + lengths - 1],
        "max": np.maximum.reduceat(dense, starts),
    }
    found: dict[tuple[int, str], list[tuple[int, float]]] = {}
    table = pq.read_table(run.folder("examples") / tables.EXAMPLES)
    columns = (table[name].to_pylist() for name in ("latent", "aggregation", "sentence", "value"))
    for latent, aggregation, sentence, value in zip(*columns, strict=True):
        found.setdefault((latent, aggregation), []).append((sentence, value))
    shown = ~is_test(numbers, run.recipe.examples.test_fraction, run.recipe.seed)
    for name, score in scores.items():
        for latent in range(stored.n):
            order = np.lexsort((numbers, -score[:, latent]))
            order = order[(score[order, latent] > 0) & shown[order]][:50]
            expected = list(zip(numbers[order].tolist(), score[order, latent].tolist(), strict=True))
            assert found.get((latent, name), []) == expected
    fires = (dense > 0).astype(np.float32)  # counts below 2^24 are exact in float32
    together = (fires.T @ fires).astype(np.int64)
    partners = pq.read_table(run.folder("coactivation") / tables.PARTNERS)
    assert len(partners) > 10 * stored.n
    count = together[partners["latent"].to_numpy(), partners["partner"].to_numpy()]
    assert (partners["count"].to_numpy() == count).all()
