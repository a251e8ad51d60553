"""The streaming pass over codes against a dense computation that holds everything."""

from typing import NamedTuple

import numpy as np
import pytest

from monosem.interpret import ranking, tables
from monosem.interpret.collect import Collector
from monosem.interpret.firings import group

AGGREGATIONS = ("mean", "last", "max")


class Codes(NamedTuple):
    """Arguments of `Collector.add`."""

    values: np.ndarray
    indices: np.ndarray
    sentence: np.ndarray
    position: np.ndarray

    def add_to(self, collector: Collector, rows: slice) -> None:
        collector.add(self.values[rows], self.indices[rows], self.sentence[rows], self.position[rows])


def random_codes(seed: int, sentences: int, n: int, k: int, levels: int = 5) -> Codes:
    """Codes with few distinct values, so that ties abound; some are 0; some sentences are missing from the store."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 12, size=sentences)
    sentence = np.repeat(np.arange(sentences, dtype=np.int64) * 3, lengths)
    position = np.concatenate([np.sort(rng.choice(40, size=length, replace=False)) for length in lengths])
    indices = np.argsort(rng.random((len(sentence), n)), axis=1)[:, :k]
    values = (rng.integers(0, levels, size=indices.shape) / 7).astype(np.float32)
    return Codes(values, indices, sentence, position.astype(np.int32))


def dense_top(codes: Codes, n: int, aggregation: str, top: int) -> dict[int, list[tuple[int, float]]]:
    """By latent, its best (sentence, score), from the full [tokens, n] matrix, one sentence at a time."""
    values, indices, sentence, _ = codes
    dense = np.zeros((len(values), n), dtype=np.float32)
    np.put_along_axis(dense, indices, values, axis=1)
    scored: dict[int, list[tuple[int, float]]] = {latent: [] for latent in range(n)}
    for number in np.unique(sentence):
        rows = dense[sentence == number]
        score = {"mean": rows.astype(np.float64).sum(0) / len(rows), "last": rows[-1], "max": rows.max(0)}[aggregation]
        for latent in np.flatnonzero(score > 0):
            scored[int(latent)].append((int(number), float(np.float32(score[latent]))))
    return {latent: sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:top] for latent, pairs in scored.items()}


def in_blocks(sentence: np.ndarray, rows: int):
    """Slices of whole sentences of about `rows` rows."""
    start = 0
    while start < len(sentence):
        stop = start + rows
        while 0 < stop < len(sentence) and sentence[stop] == sentence[stop - 1]:
            stop += 1
        yield slice(start, min(stop, len(sentence)))
        start = stop


def collect(codes: Codes, n: int, top: int, block: int = 500) -> Collector:
    collector = Collector(n, top, AGGREGATIONS)
    for rows in in_blocks(codes.sentence, block):
        codes.add_to(collector, rows)
    return collector


def best(collector: Collector, aggregation: str) -> ranking.Entries:
    """All parts as one."""
    return ranking.concatenate(collector.parts(aggregation))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(("n", "k", "top", "merge_after"), [(40, 6, 7, 1), (40, 6, 7, 1 << 19), (300, 4, 50, 900)])
def test_equals_the_dense_computation_ties_included(aggregation, n, k, top, merge_after, monkeypatch):
    monkeypatch.setattr(ranking, "MERGE_AFTER", merge_after)
    codes = random_codes(seed=n, sentences=5000, n=n, k=k)
    monkeypatch.setattr(ranking, "RANGE", 16)
    entries = best(collect(codes, n, top), aggregation)
    expected = dense_top(codes, n, aggregation, top)
    found: dict[int, list[tuple[int, float]]] = {latent: [] for latent in range(n)}
    for latent, sentence, score in zip(entries.latent, entries.sentence, entries.score, strict=True):
        found[int(latent)].append((int(sentence), float(score)))
    assert found == expected


def test_kept_tokens_are_where_the_latent_fires():
    values, indices, sentence, position = codes = random_codes(seed=1, sentences=400, n=30, k=5)
    entries = best(collect(codes, n=30, top=9), "mean")
    ends = np.cumsum(entries.length)
    for i in range(0, len(entries.latent), 7):
        tokens = slice(ends[i] - entries.length[i], ends[i])
        row, column = np.nonzero(
            (sentence == entries.sentence[i])[:, None] & (indices == entries.latent[i]) & (values > 0)
        )
        assert entries.position[tokens].tolist() == position[row].tolist()
        assert entries.value[tokens].tolist() == values[row, column].tolist()


def test_statistics_are_counts_over_the_whole_pass():
    n = 30
    values, indices, sentence, _ = codes = random_codes(seed=2, sentences=700, n=n, k=5)
    collector = collect(codes, n=n, top=3, block=111)
    dense = np.zeros((len(values), n))
    np.put_along_axis(dense, indices, values, axis=1)
    assert collector.rows == len(values)
    assert collector.statistics.fire_count.tolist() == (dense > 0).sum(0).tolist()
    assert collector.statistics.max.tolist() == dense.max(0).astype(np.float32).tolist()
    np.testing.assert_allclose(collector.statistics.total, dense.sum(0), rtol=1e-12)
    in_sentence = [(dense[sentence == number] > 0).any(0) for number in np.unique(sentence)]
    assert collector.statistics.sentence_count.tolist() == np.sum(in_sentence, axis=0).tolist()


def test_nothing_fires():
    firings = group(np.zeros((3, 2), np.float32), np.zeros((3, 2), np.int64), np.arange(3), np.zeros(3, np.int32))
    assert len(firings.latent) == 0
    collector = Collector(4, 5, AGGREGATIONS)
    collector.add(np.zeros((3, 2), np.float32), np.tile([0, 1], (3, 1)), np.arange(3), np.zeros(3, np.int32))
    assert len(best(collector, "max").latent) == 0
    assert collector.statistics.fire_count.sum() == 0


def test_saved_state_goes_on_as_if_never_interrupted(tmp_path):
    codes = random_codes(seed=3, sentences=900, n=50, k=4)
    whole = collect(codes, n=50, top=8)
    blocks = list(in_blocks(codes.sentence, 500))
    first = Collector(50, 8, AGGREGATIONS)
    for rows in blocks[:4]:
        codes.add_to(first, rows)
    first.save(tmp_path / "state.safetensors", shards=4)
    second = Collector(50, 8, AGGREGATIONS)
    assert second.restore(tmp_path / "state.safetensors") == 4
    for rows in blocks[4:]:
        codes.add_to(second, rows)
    assert second.rows == whole.rows
    for aggregation in AGGREGATIONS:
        for found, expected in zip(best(second, aggregation), best(whole, aggregation), strict=True):
            np.testing.assert_array_equal(found, expected)
    for found, expected in zip(second.statistics, whole.statistics, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_one_latent_is_read_from_its_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS_IN_GROUP", 64)
    collector = collect(random_codes(seed=4, sentences=800, n=50, k=4), n=50, top=8)
    rows = tables.write_examples(tmp_path / tables.EXAMPLES, collector)
    assert rows == sum(len(best(collector, aggregation).latent) for aggregation in AGGREGATIONS)
    for latent in (0, 17, 49):
        table = tables.read_sorted(tmp_path / tables.EXAMPLES, "latent", [latent])
        assert set(table["latent"].to_pylist()) == {latent}
        keys = list(zip(table["aggregation"].to_pylist(), table["rank"].to_pylist(), strict=True))
        assert keys == sorted(keys)
        entries = best(collector, "max")
        mine = np.flatnonzero(entries.latent == latent)
        listed = [row for row in table.to_pylist() if row["aggregation"] == "max"]
        assert [row["sentence"] for row in listed] == entries.sentence[mine].tolist()
        assert [len(row["positions"]) for row in listed] == entries.length[mine].tolist()
        assert [max(row["values"]) for row in listed] == entries.score[mine].tolist()
