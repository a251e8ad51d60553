"""Co-activation against the dense computation, on codes with planted partners; neighbours on the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from monosem import cli
from monosem.interpret import coactivation, counting, encoding
from monosem.interpret.codes import Codes, StoredCodes
from monosem.interpret.counting import PairCounts
from monosem.interpret.neighbours import MEASURES, neighbourhood
from monosem.run import Run

N, TOKENS = 80, 6000
PLANTED = ((3, 4, 5), (10, 70))


def planted_codes() -> Codes:
    """Random codes of 5 latents a token, a few tokens with many; planted latents fire together on a tenth of tokens."""
    rng = np.random.default_rng(0)
    fires = rng.random((TOKENS, N)) < np.where(rng.random((TOKENS, 1)) < 0.02, 0.5, 0.06)
    fires[:, [latent for group in PLANTED for latent in group]] = False
    for group in PLANTED:
        fires[:, list(group)] = (rng.random(TOKENS) < 0.1)[:, None]
    fires &= rng.random((TOKENS, N)) < 0.9
    fires[:, 60] = False
    values = np.where(fires, rng.random((TOKENS, N)) + 0.1, np.where(rng.random((TOKENS, N)) < 0.01, -1.0, 0.0))
    indices = np.tile(np.arange(N), (TOKENS, 1))
    return Codes.of(values, indices, np.arange(TOKENS) // 7, np.arange(TOKENS) % 7, np.zeros(TOKENS))


def dense_counts(codes: Codes) -> np.ndarray:
    fires = np.zeros((codes.rows, N), dtype=np.int64)
    fires[codes.row()[codes.value > 0], codes.latent[codes.value > 0]] = 1
    return fires.T @ fires


@pytest.mark.parametrize("block", [50, 1 << 24])
def test_counts_equal_the_dense_product(block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(counting, "BLOCK_ENTRIES", block)
    codes = planted_codes()
    expected = dense_counts(codes)
    for first, stop in ((0, N), (20, 33)):
        counts = PairCounts(first, stop, N)
        for part in codes.blocks(9000):
            counts.add(part)
        np.testing.assert_array_equal(counts.table, expected[first:stop])
        np.testing.assert_array_equal(counts.fires, expected.diagonal())
        assert counts.rows == TOKENS


def test_partners_are_the_best_by_each_measure_and_planted_ones_come_first():
    codes = planted_codes()
    counts = PairCounts(0, N, N)
    counts.add(codes)
    expected = dense_counts(codes)
    rows = pa.concat_tables(coactivation.partners(counts, 4)).to_pylist()
    fires = expected.diagonal()
    for latent in range(N):
        mine = [row for row in rows if row["latent"] == latent]
        count = np.where(np.arange(N) == latent, 0, expected[latent])
        with np.errstate(divide="ignore", invalid="ignore"):
            jaccard = np.nan_to_num(count / (fires + fires[latent] - count))
            pmi = np.where(count >= 5, np.log(count * TOKENS / (fires * fires[latent])), 0)
        for measure in (jaccard, count, pmi):
            order = np.lexsort((np.arange(N), -measure))[:4]
            assert set(order[measure[order] > 0]) <= {row["partner"] for row in mine}
        assert [row["jaccard"] for row in mine] == sorted((row["jaccard"] for row in mine), reverse=True)
        for row in mine:
            other = row["partner"]
            assert row["count"] == count[other]
            assert row["jaccard"] == pytest.approx(jaccard[other], rel=1e-6)
            assert row["conditional"] == pytest.approx(count[other] / fires[latent], rel=1e-6)
            assert row["reverse"] == pytest.approx(count[other] / fires[other], rel=1e-6)
            assert row["pmi"] == pytest.approx(np.log(count[other] * TOKENS / fires[latent] / fires[other]), abs=1e-5)
    for group in PLANTED:
        for latent in group:
            best = [row["partner"] for row in rows if row["latent"] == latent and row["rank"] < len(group) - 1]
            assert sorted([latent, *best]) == list(group)
    assert not [row for row in rows if 60 in (row["latent"], row["partner"])], "a latent that never fires has none"


def test_cosines_are_those_of_the_rows():
    W_dec = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    table = pa.concat_tables(coactivation.cosines(W_dec, 6))
    unit = W_dec / W_dec.norm(dim=1, keepdim=True)
    dense = (unit @ unit.T).fill_diagonal_(-2).numpy()
    for latent in range(50):
        mine = [row for row in table.to_pylist() if row["latent"] == latent]
        assert [row["neighbour"] for row in mine] == np.argsort(-dense[latent])[:6].tolist()
        np.testing.assert_allclose([row["cosine"] for row in mine], np.sort(dense[latent])[::-1][:6], rtol=1e-5)


@pytest.fixture(scope="module")
def counted_folder(made_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("counted") / "run"
    shutil.copytree(made_folder, copy)
    coactivation.make(Run.open(copy))
    return copy


@pytest.fixture
def counted(counted_folder: Path, tmp_path: Path) -> Run:
    """A copy of the run with co-activation."""
    shutil.copytree(counted_folder, tmp_path / "run")
    return Run.open(tmp_path / "run")


def files(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.folder("coactivation").glob("*.parquet")}


def test_ranges_and_a_stop_between_them_do_not_show(counted: Run, monkeypatch: pytest.MonkeyPatch):
    whole = files(counted)
    assert set(whole) == {coactivation.PARTNERS, coactivation.COSINES, coactivation.CLUSTERS}
    counted.remove(["coactivation"])
    monkeypatch.setattr(coactivation, "TABLE_BYTES", 4 * 64 * 20)
    original, calls = coactivation.partners, []

    def stops(counts: PairCounts, most: int):
        calls.append(counts.first)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(counts, most)

    monkeypatch.setattr(coactivation, "partners", stops)
    with pytest.raises(KeyboardInterrupt):
        coactivation.make(counted)
    coactivation.make(counted)
    assert calls == [0, 20, 40, 40, 60], "finished ranges are not counted again"
    assert files(counted) == whole


def test_the_stage_equals_the_dense_computation(counted: Run):
    codes = StoredCodes(encoding.open_stage(counted))
    fires = np.zeros((codes.rows, codes.n))  # a product of whole numbers is not BLAS's
    row = 0
    for shard in codes.shards:
        part = codes.read(shard)
        fires[row + part.row()[part.value > 0], part.latent[part.value > 0]] = 1
        row += part.rows
    expected = fires.T @ fires
    table = pq.read_table(counted.folder("coactivation") / coactivation.PARTNERS).to_pylist()
    assert len(table) > 500
    assert all(row["count"] == expected[row["latent"], row["partner"]] for row in table)


def test_neighbours_in_the_terminal(counted: Run, capsys: pytest.CaptureFixture[str], error_line):
    shown = counted.folder("examples").rename(counted.path / "moved")
    with pytest.raises(SystemExit):
        cli.main(["neighbours", str(counted.path), "5"])
    assert "latents.parquet: no such file; make it with: monosem examples" in capsys.readouterr().err
    shown.rename(counted.folder("examples"))
    latent = int(pq.read_table(counted.folder("coactivation") / coactivation.PARTNERS)["latent"][0].as_py())
    for by in MEASURES:
        cli.main(["neighbours", str(counted.path), str(latent), "--by", by, "--top", "3", "--json"])
        found = json.loads(capsys.readouterr().out)
        values = [one[by] for one in found["neighbours"]]
        assert 0 < len(values) <= 3
        assert values == sorted(values, reverse=True)
    cli.main(["neighbours", str(counted.path), str(latent)])
    shown = capsys.readouterr().out
    assert f"latent {latent}" in shown
    assert "jaccard" in shown
    assert "latent 64 is out of range" in error_line("neighbours", str(counted.path), "64")
    assert "--top 0: expected at least 1" in error_line("neighbours", str(counted.path), "3", "--top", "0")
    (counted.folder("coactivation") / coactivation.CLUSTERS).unlink()
    assert "no finished co-activation; make it with: monosem coactivation" in error_line(
        "neighbours", str(counted.path), "3"
    )


def test_clusters_are_named_with_their_members(counted: Run, tmp_path: Path):
    table = pq.read_table(counted.folder("coactivation") / coactivation.CLUSTERS)
    numbers = np.full(table.num_rows, -1, np.int32)
    numbers[[7, 9, 30]] = 0
    column = pa.array(numbers)
    pq.write_table(
        table.set_column(1, "by_coactivation", column), counted.folder("coactivation") / coactivation.CLUSTERS
    )
    assert neighbourhood(counted.path, 9).cluster_by_coactivation == [7, 30]
    assert neighbourhood(counted.path, 8).cluster_by_coactivation == []
