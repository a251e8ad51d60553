"""n-grams, groups and token-only latents, planted and on a small run."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from monosem import cli
from monosem.interpret import encoding, grouping, groups, lexicons, tables, token_only
from monosem.interpret.codes import Codes, StoredCodes
from monosem.interpret.firing_tokens import Example
from monosem.interpret.lexical import Lexicon
from monosem.interpret.ngrams import TermIndex
from monosem.lm.source import open_tokenizer
from monosem.run import Run

CORPUS = 2000
SEA, LAW = ("harbour", "sailor", "anchor", "tide", "captain"), ("court", "judge", "appeal", "ruling", "verdict")


class Planted:
    """Sentences of common words; the last 60 are about the sea, the law, or nothing in particular, 20 each."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        common = [f"word{i}" for i in range(400)]
        weight = 1 / np.arange(1, 401)
        rows = [list(rng.choice(common, 12, p=weight / weight.sum())) for _ in range(CORPUS + 60)]
        for kind, words in enumerate((SEA, LAW)):
            for row in rows[CORPUS + 20 * kind : CORPUS + 20 * (kind + 1)]:
                for place, word in zip((3, 5, 7), rng.choice(words, 3, replace=False), strict=True):
                    row[place] = word
        texts = [" ".join(row) for row in rows]
        spans = []
        for row in rows:
            ends = np.cumsum([len(word) + 1 for word in row]) - 1
            spans.append(([0, *ends[:-1]], ends.tolist()))
        self.lexicon = Lexicon(TermIndex.build(texts, spans), np.ones(len(texts), dtype=bool), seed=0)

    def examples(self, *kinds: int) -> list[Example]:
        """A latent that fires on the sixth word of the sentences of some kinds."""
        places = [CORPUS + 20 * kind + i for kind in kinds for i in range(20)]
        return [Example(place, [5], [1.0 + 0.01 * place]) for place in places]


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


def test_a_topic_is_one_group_and_two_are_two(planted: Planted):
    sea = grouping.compare(planted.lexicon, planted.examples(0), 0.1, (0, 0))
    both = grouping.compare(planted.lexicon, planted.examples(0, 1), 0.1, (0, 1))
    mixed = grouping.compare(planted.lexicon, planted.examples(2), 0.1, (0, 2))
    assert [round(group.share, 1) for group in sea.groups[:1]] == [1.0]
    assert set(sea.groups[0].words) <= set(SEA)
    assert [round(group.share, 1) for group in both.groups[:2]] == [0.5, 0.5]
    told = [set(group.words) & {*SEA, *LAW} for group in both.groups[:2]]
    assert any(words <= set(SEA) for words in told)
    assert any(words <= set(LAW) for words in told)
    assert all(word in {*SEA, *LAW} for group in both.groups[:2] for word in group.words[:3])
    places = [place for group in both.groups[:2] for place in group.places]
    assert sorted(places) == [example.sentence for example in planted.examples(0, 1)]
    assert sea.monosemanticity is not None
    assert both.monosemanticity is not None
    assert mixed.monosemanticity is not None
    assert mixed.random is not None
    assert sea.monosemanticity > 1.5 * both.monosemanticity > 1.5 * mixed.monosemanticity
    assert mixed.monosemanticity == pytest.approx(mixed.random, abs=0.05), "nothing in common is as good as random"


def test_monosemanticity_is_the_weighted_mean_of_pairs():
    rng = np.random.default_rng(1)
    cosine, strength = rng.random((5, 5)), rng.random(5)
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    total = sum(strength[i] * strength[j] for i, j in pairs)
    expected = sum(cosine[i, j] * strength[i] * strength[j] for i, j in pairs) / total
    assert grouping.weighted_mean(cosine, strength) == pytest.approx(expected)
    assert grouping.weighted_mean(np.ones((3, 3)), np.ones(3)) == 1.0


def test_too_few_examples_are_not_compared(planted: Planted):
    assert grouping.compare(planted.lexicon, planted.examples(0)[:3], 0.1, (0, 0)) == ([], None, None)
    assert planted.lexicon.over_represented(planted.examples(0)[:5], 4) == []


def test_over_represented_terms_are_the_planted_ones(planted: Planted):
    found = planted.lexicon.over_represented(planted.examples(1), 5)
    assert all(set(ngram.text.split()) & set(LAW) for ngram in found)
    assert {ngram.place for ngram in found} <= {"at", "about"}
    assert [ngram.z for ngram in found] == sorted((ngram.z for ngram in found), reverse=True)
    assert [ngram.words for ngram in found] == [len(ngram.text.split()) for ngram in found]
    assert all(ngram.corpus_share < 0.01 < 0.1 <= ngram.share for ngram in found)


def test_a_latent_on_one_token_is_told_from_one_that_needs_context():
    """Latent 0: every token 7. Latent 1: tokens 8 and 9, one class. Latent 2: half of the tokens 7. Latent 3: dead."""
    rng = np.random.default_rng(2)
    token = rng.integers(0, 20, 4000)
    fires: NDArray[np.bool_] = np.zeros((4000, 4), dtype=bool)
    fires[:, 0] = token == 7
    fires[:, 1] = np.isin(token, (8, 9))
    fires[:, 2] = (token == 7) & (rng.random(4000) < 0.5)
    codes = Codes.of(fires.astype(np.float32), np.tile(np.arange(4), (4000, 1)), np.arange(4000) // 8, token, token)
    source = SimpleNamespace(n=4, shards=[SimpleNamespace(rows=4000)], read=lambda _: codes)
    of_id = np.arange(20, dtype=np.int32)
    of_id[9] = 8
    classes = token_only.Classes(of_id, [str(i) for i in range(20)])
    own = token_only.most_frequent(4, np.array([0, 0, 0, 1, 2]), np.array([3, 7, 7, 8, 7], np.int32))
    assert own.tolist() == [7, 8, 7, -1]
    counted = token_only.count(source, classes, own)  # type: ignore[arg-type]
    assert counted.fires.tolist() == fires.sum(0).tolist()
    assert counted.share.tolist() == [1, 1, 1, 0]
    assert counted.rate[:2].tolist() == [1, 1]
    assert counted.rate[2] == pytest.approx(fires[:, 2].sum() / (token == 7).sum())
    assert counted.occurrences[3] == 0


def test_equal_tokens_are_one_class(trained: Run):
    tokenizer = open_tokenizer(trained.recipe.model)
    classes = token_only.Classes.of(tokenizer)
    ship, spaced = tokenizer.encode("ship"), tokenizer.encode(" Ship ship")
    assert {classes.names[classes.of_id[i]] for i in ship} <= {classes.names[classes.of_id[i]] for i in spaced}
    assert len(classes.of_id) == tokenizer.vocab_size
    assert all(name == name.casefold() for name in classes.names)


@pytest.fixture(scope="module")
def grouped(made_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """With groups; only read."""
    copy = tmp_path_factory.mktemp("grouped") / "run"
    shutil.copytree(made_folder, copy)
    run = Run.open(copy)
    groups.make(run)
    return run


def test_the_stage_has_a_row_for_every_latent_and_counts_the_whole_store(grouped: Run):
    rows = pq.read_table(grouped.folder("groups") / tables.GROUPS).to_pylist()
    assert [row["latent"] for row in rows] == list(range(grouped.recipe.sae.n))
    stored = StoredCodes(encoding.open_stage(grouped))
    parts = [stored.read(shard) for shard in stored.shards]
    classes = token_only.Classes.of(open_tokenizer(grouped.recipe.model))
    token = np.concatenate([np.array(classes.names)[classes.of_id[part.token]] for part in parts])
    fires = np.zeros((stored.rows, stored.n), dtype=bool)
    fires[
        np.repeat(np.arange(stored.rows), np.concatenate([part.active for part in parts])),
        np.concatenate([part.latent for part in parts]),
    ] = np.concatenate([part.value for part in parts]) > 0
    for row in rows:
        if row["token"] is None:
            assert not fires[:, row["latent"]].any()
            assert (row["token_only"], row["ngrams"], row["monosemanticity"]) == (False, [], None)
            continue
        mine, own = fires[:, row["latent"]], token == row["token"]
        assert row["token_share"] == pytest.approx((mine & own).sum() / mine.sum(), rel=1e-6)
        assert row["token_rate"] == pytest.approx((mine & own).sum() / own.sum(), rel=1e-6)
        assert row["token_only"] == (row["token_share"] >= 0.9 and row["token_rate"] >= 0.9)
    known = set(pq.read_table(grouped.folder("examples") / tables.EXAMPLES)["sentence"].to_pylist())
    assert known.issuperset(s for row in rows for cluster in row["clusters"] for s in cluster["sentences"])
    assert sum(bool(row["clusters"]) for row in rows) > len(rows) / 2


def test_batches_of_latents_bound_the_index(grouped: Run, monkeypatch: pytest.MonkeyPatch):
    whole = list(lexicons.batches(grouped, ["max"]))
    assert len(whole) == 1
    monkeypatch.setattr(lexicons, "SHOWN_SENTENCES", 0)
    monkeypatch.setattr(lexicons, "CORPUS_SENTENCES", 50)
    monkeypatch.setattr(lexicons, "LATENTS_AT_ONCE", 20)
    parts = list(lexicons.batches(grouped, ["max"]))
    assert [len(part.latents) for part in parts] == [20, 20, 20, 4]
    for part in parts:
        shown = {int(part.sentence[example.sentence]) for found in part.examples.values() for example in found}
        assert len(part.lexicon.index.texts) <= len(shown) + 50
        for latent, found in part.examples.items():
            expected = whole[0].examples[latent]
            assert [part.sentence[one.sentence] for one in found] == [
                whole[0].sentence[one.sentence] for one in expected
            ]
            assert [one.values for one in found] == [one.values for one in expected]


def test_made_again_it_has_the_same_bytes_and_show_prints_it(
    grouped: Run, made: Run, capsys: pytest.CaptureFixture[str]
):
    path = grouped.folder("groups") / tables.GROUPS
    groups.make(made)
    assert path.read_bytes() == (made.folder("groups") / tables.GROUPS).read_bytes()
    latent = next(row["latent"] for row in pq.read_table(path).to_pylist() if row["clusters"])
    cli.main(["show", str(grouped.path), str(latent)])
    assert "of its sentences" in capsys.readouterr().out
    cli.main(["show", str(grouped.path), str(latent), "--json", "--aggregation", "quantile"])
    card = json.loads(capsys.readouterr().out)
    assert card["grouped"]["monosemanticity"] is not None
    assert len(card["examples"]["quantile"]) == 10
