"""The streaming pass over codes against a dense computation that holds everything."""

import numpy as np
import pytest
from numpy.typing import NDArray

from monosem.interpret import ranking, selection, tables
from monosem.interpret.codes import Codes
from monosem.interpret.collect import SAMPLE, TEST, Collector, Plan
from monosem.interpret.draws import is_test, lots
from monosem.interpret.firings import group
from monosem.recipe import ExamplesRecipe

AGGREGATIONS = ("mean", "last", "max")
PLAN = Plan(7, AGGREGATIONS, sample=20, test=5, test_fraction=0.3, seed=3)
Scores = dict[int, list[tuple[int, float]]]


def random_codes(seed: int, sentences: int, n: int, k: int, levels: int = 5) -> Codes:
    """Codes with few distinct values, so that ties abound; some are 0; some sentences are missing from the store."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 12, size=sentences)
    sentence = np.repeat(np.arange(sentences, dtype=np.int64) * 3, lengths)
    position = np.concatenate([np.sort(rng.choice(40, size=length, replace=False)) for length in lengths])
    indices = np.argsort(rng.random((len(sentence), n)), axis=1)[:, :k]
    values = (rng.integers(0, levels, size=indices.shape) / 7).astype(np.float32)
    return Codes.of(values, indices, sentence, position, rng.integers(0, 50, len(sentence)))


def dense(codes: Codes, n: int) -> NDArray[np.float32]:
    """[tokens, n]"""
    values = np.zeros((codes.rows, n), dtype=np.float32)
    values[codes.row(), codes.latent] = codes.value
    return values


def dense_scores(codes: Codes, n: int, name: str, plan: Plan) -> Scores:
    """By latent, the best (sentence, score), from the full [tokens, n] and [sentences, n] matrices."""
    values, starts = dense(codes, n), np.cumsum(codes.length) - codes.length
    if name in AGGREGATIONS:
        mean = np.add.reduceat(values, starts, dtype=np.float64) / codes.length[:, None]
        last = values[starts + codes.length - 1]
        score = {"mean": mean.astype(np.float32), "last": last, "max": np.maximum.reduceat(values, starts)}[name]
    else:
        latent = np.tile(np.arange(n, dtype=np.int32), (len(starts), 1))
        drawn = lots(latent, codes.sentence[:, None], plan.seed)
        score = np.where(np.maximum.reduceat(values, starts) > 0, drawn, 0)
    reserved = is_test(codes.sentence, plan.test_fraction, plan.seed)
    score[reserved != (name == TEST)] = 0
    size = {SAMPLE: plan.sample, TEST: plan.test}.get(name, plan.top)
    found: Scores = {}
    for latent in range(n):
        order = np.lexsort((codes.sentence, -score[:, latent]))[:size]
        order = order[score[order, latent] > 0]
        found[latent] = list(zip(codes.sentence[order].tolist(), score[order, latent].tolist(), strict=True))
    return found


def collect(codes: Codes, n: int, plan: Plan = PLAN, entries: int = 2000) -> Collector:
    collector = Collector(n, plan)
    for block in codes.blocks(entries):
        collector.add(block)
    return collector


def kept(collector: Collector, name: str) -> ranking.Entries:
    """All parts as one."""
    return ranking.concatenate(collector.parts(name))


def scores(entries: ranking.Entries, n: int) -> Scores:
    found: Scores = {latent: [] for latent in range(n)}
    for latent, sentence, score in zip(entries.latent, entries.sentence, entries.score, strict=True):
        found[int(latent)].append((int(sentence), float(score)))
    return found


def assert_same(one: Collector, other: Collector) -> None:
    """Everything that they keep is equal to the bit."""
    assert one.rows == other.rows
    for name in (*AGGREGATIONS, SAMPLE, TEST):
        for found, expected in zip(kept(one, name), kept(other, name), strict=True):
            np.testing.assert_array_equal(found, expected)
    for found, expected in zip(one.statistics, other.statistics, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", [*AGGREGATIONS, SAMPLE, TEST])
@pytest.mark.parametrize(("n", "k", "top", "merge_after"), [(40, 6, 7, 1), (40, 6, 7, 1 << 19), (300, 4, 50, 900)])
def test_equals_the_dense_computation_ties_included(name, n, k, top, merge_after, monkeypatch):
    monkeypatch.setattr(ranking, "MERGE_AFTER", merge_after)
    monkeypatch.setattr(ranking, "RANGE", 16)
    codes, plan = random_codes(seed=n, sentences=5000, n=n, k=k), PLAN._replace(top=top)
    assert scores(kept(collect(codes, n, plan), name), n) == dense_scores(codes, n, name, plan)


def test_kept_tokens_are_where_the_latent_fires():
    codes = random_codes(seed=1, sentences=400, n=30, k=5)
    entries = kept(collect(codes, n=30), "mean")
    values, sentence = dense(codes, 30), codes.sentence[codes.ordinal()]
    ends = np.cumsum(entries.length)
    for i in range(0, len(entries.latent), 7):
        tokens = slice(ends[i] - entries.length[i], ends[i])
        row = np.flatnonzero((sentence == entries.sentence[i]) & (values[:, entries.latent[i]] > 0))
        assert entries.position[tokens].tolist() == codes.position[row].tolist()
        assert entries.token[tokens].tolist() == codes.token[row].tolist()
        assert entries.value[tokens].tolist() == values[row, entries.latent[i]].tolist()


def test_statistics_are_counts_over_the_whole_pass():
    n = 30
    codes = random_codes(seed=2, sentences=700, n=n, k=5)
    statistics = collect(codes, n=n, entries=300).statistics
    values = dense(codes, n)
    assert statistics.fire_count.tolist() == (values > 0).sum(0).tolist()
    assert statistics.max.tolist() == values.max(0).tolist()
    np.testing.assert_allclose(statistics.mean, values.sum(0, np.float64) / (values > 0).sum(0), rtol=1e-9)
    fires = np.array([(values[codes.ordinal() == place] > 0).any(0) for place in range(len(codes.sentence))])
    assert statistics.sentence_count.tolist() == fires.sum(0).tolist()
    in_test = is_test(codes.sentence, PLAN.test_fraction, PLAN.seed)
    assert statistics.test_sentence_count.tolist() == fires[in_test].sum(0).tolist()
    assert 0.2 < in_test.mean() < 0.4


def test_means_are_exact_over_values_of_any_size():
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(scale=3, size=(50_000, 1))).astype(np.float32)
    codes = Codes.of(values, np.zeros((50_000, 1), int), np.arange(50_000), np.zeros(50_000), np.zeros(50_000))
    mean = collect(codes, 1).statistics.mean[0]
    assert mean == pytest.approx(values.astype(np.float64).mean(), rel=1e-11)


def test_nothing_fires():
    codes = Codes.of(np.full((3, 2), -1.0), np.tile([0, 1], (3, 1)), np.arange(3), np.zeros(3), np.zeros(3))
    assert len(group(codes).latent) == 0
    collector = Collector(4, PLAN)
    collector.add(codes)
    assert len(kept(collector, "max").latent) == 0
    assert collector.statistics.fire_count.sum() == 0


@pytest.mark.parametrize("entries", [1, 700, 1 << 20])
def test_batches_do_not_show(entries):
    codes = random_codes(seed=6, sentences=500, n=50, k=4)
    assert_same(collect(codes, 50, entries=entries), collect(codes, 50, entries=5000))


def test_parts_merge_in_any_grouping_and_order_to_one_pass():
    codes = random_codes(seed=3, sentences=900, n=50, k=4)
    places = np.arange(len(codes.sentence))

    def part(number: int) -> Collector:
        """Every third sentence: parts that lie among each other."""
        return collect(codes.chosen(places[places % 3 == number]), 50)

    whole = collect(codes, 50)
    left = part(0)
    left.merge(part(1))
    left.merge(part(2))
    assert_same(left, whole)
    right = part(1)
    right.merge(part(2))
    first = part(0)
    first.merge(right)
    assert_same(first, whole)
    backwards = part(2)
    backwards.merge(part(1))
    backwards.merge(part(0))
    assert_same(backwards, whole)


def test_saved_state_goes_on_as_if_never_interrupted(tmp_path):
    codes = random_codes(seed=3, sentences=900, n=50, k=4)
    first = Collector(50, PLAN)
    first.add(codes.between(0, 400))
    first.save(tmp_path / "state.safetensors", shards=4)
    second = Collector(50, PLAN)
    assert second.restore(tmp_path / "state.safetensors") == 4
    second.add(codes.between(400, len(codes.sentence)))
    assert_same(second, collect(codes, 50))


def test_quantiles_are_the_middles_of_equal_parts():
    sizes = [0, 1, 3, 4, 5, 9, 40, 41]
    latent = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    rng = np.random.default_rng(1)
    entries = ranking.empty()._replace(
        latent=latent,
        sentence=rng.permutation(len(latent)),
        score=rng.integers(1, 9, len(latent)).astype(np.float32),
        length=np.zeros(len(latent), np.int32),
    )
    found = scores(selection.quantiles(entries, 4), len(sizes))
    for number, pairs in scores(entries, len(sizes)).items():
        ordered = sorted(pairs, key=lambda pair: (pair[1], pair[0]))
        size = len(ordered)
        assert found[number] == (ordered if size <= 4 else [ordered[(2 * i + 1) * size // 8] for i in range(4)])


def test_one_latent_is_read_from_its_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS_IN_GROUP", 64)
    collector = collect(random_codes(seed=4, sentences=800, n=50, k=4), n=50)
    recipe = ExamplesRecipe(random=4, quantiles=3)
    rows = tables.write_by_latent(
        tmp_path / "examples.parquet", selection.chosen(collector, recipe), tables.EXAMPLES_SCHEMA
    )
    strength = collect(random_codes(seed=4, sentences=800, n=50, k=4), n=50, plan=PLAN._replace(top=10_000))
    assert rows == sum(len(kept(collector, name).latent) for name in AGGREGATIONS) + 50 * (4 + 3)
    for latent in (0, 17, 49):
        table = tables.read_sorted(tmp_path / "examples.parquet", "latent", [latent])
        assert set(table["latent"].to_pylist()) == {latent}
        keys = list(zip(table["aggregation"].to_pylist(), table["rank"].to_pylist(), strict=True))
        assert keys == sorted(keys)
        entries = kept(collector, "max")
        mine = np.flatnonzero(entries.latent == latent)
        by_name = {name: [row for row in table.to_pylist() if row["aggregation"] == name] for name, _ in keys}
        assert [row["sentence"] for row in by_name["max"]] == entries.sentence[mine].tolist()
        assert [max(row["values"]) for row in by_name["max"]] == entries.score[mine].tolist()
        drawn = kept(collector, SAMPLE)
        assert [row["sentence"] for row in by_name["random"]] == drawn.sentence[drawn.latent == latent][:4].tolist()
        everywhere = dict(scores(kept(strength, "max"), 50)[latent])
        assert [row["value"] for row in by_name["random"]] == [everywhere[row["sentence"]] for row in by_name["random"]]
        spread = [row["value"] for row in by_name["quantile"]]
        assert spread == sorted(spread)
