"""Silent sentences against a search through everything, and the split that keeps tests apart."""

from pathlib import Path

import numpy as np
import pytest

from monosem.interpret.codes import Codes, StoredCodes
from monosem.interpret.draws import is_test, lots, pool_order
from monosem.interpret.negatives import Negatives, Pool, Tokens, own_tokens
from monosem.interpret.ranking import empty
from monosem.run import Stage

N, SEED = 30, 5


@pytest.fixture
def stored(tmp_path: Path) -> tuple[StoredCodes, Codes]:
    """600 sentences in three files; latent 3 fires on token 7 in even sentences, on nothing else; 9 everywhere."""
    rng = np.random.default_rng(2)
    sentence = np.repeat(np.arange(600), 8)
    token = rng.integers(0, 40, len(sentence))
    indices = np.concatenate([rng.integers(10, N, (len(sentence), 2)), np.full((len(sentence), 2), [3, 9])], 1)
    values = rng.random(indices.shape) + 0.1
    values[:, 2] = np.where((token == 7) & (sentence % 2 == 0), 1.0, 0.0)
    values[indices[:, 0] == indices[:, 1], 1] = 0
    codes = Codes.of(values, indices, sentence, np.tile(np.arange(8), 600), token)
    stage = Stage(tmp_path / "codes", "codes", {}, {})
    stage.begin()
    for number, block in enumerate(codes.blocks(len(codes.latent) // 3 + 1)):
        block.save(stage.path / f"codes-{number}.safetensors", N)
        stage.add_shard(f"codes-{number}.safetensors", block.rows)
    stage.finish(n=N, rows=codes.rows, sentences=600)
    return StoredCodes(stage), codes


def tokens_of(codes: Codes, sentence: int) -> set[int]:
    return set(codes.token[codes.sentence[codes.ordinal()] == sentence].tolist())


def fires(codes: Codes, sentence: int, latent: int) -> bool:
    return bool((codes.sentence[codes.ordinal()[codes.row()]][codes.latent == latent] == sentence).any())


@pytest.mark.parametrize("latent", [3, 12])
def test_hard_negatives_equal_a_search_through_everything(stored, latent):
    source, codes = stored
    own = Tokens(np.array([7, 11, 999], np.int32), np.array([0.7, 0.2, 0.1]))
    for pool, side in zip(Pool.load(source, 10_000, 0.3, SEED), (False, True), strict=True):
        mine = codes.sentence[is_test(codes.sentence, 0.3, SEED) == side]
        assert sorted(pool.sentence) == mine.tolist()
        holders = [sum(token in tokens_of(codes, s) for s in mine) for token in (7, 11)]
        rarity = np.log((1 + len(mine)) / (1 + np.array(holders))) * [0.7, 0.2]
        expected = {}
        for place, sentence in enumerate(pool.sentence):
            share = sum(rarity[i] for i, token in enumerate((7, 11)) if token in tokens_of(codes, sentence))
            if share and not fires(codes, sentence, latent):
                expected[int(sentence)] = (-share / rarity.sum(), place)
        hard, silent = pool.negatives(latent, own, 12)
        assert hard.sentence.tolist() == sorted(expected, key=lambda s: expected[s])[:12]
        np.testing.assert_allclose(hard.value, [-expected[int(s)][0] for s in hard.sentence], rtol=1e-6)
        assert len(silent.sentence) == 12
        assert not set(silent.sentence) & set(hard.sentence)
        assert not any(fires(codes, sentence, latent) for sentence in silent.sentence)


def test_a_latent_that_fires_everywhere_has_no_negatives(stored):
    pool, _ = Pool.load(stored[0], 10_000, 0.3, SEED)
    nothing: list[Negatives] = list(pool.negatives(9, Tokens(np.array([7], np.int32), np.ones(1)), 5))
    assert [len(found.sentence) for found in nothing] == [0, 0]
    assert len(pool.negatives(3, Tokens(np.array([7], np.int32), np.ones(1)), 5)[0].sentence) == 5, (
        "nothing is left over"
    )


def test_a_small_pool_is_a_sample_by_hash(stored):
    source, codes = stored
    train, test = Pool.load(source, 100, 0.3, SEED)
    drawn = codes.sentence[pool_order(codes.sentence, SEED) < 100 / 600]
    assert sorted([*train.sentence, *test.sentence]) == drawn.tolist()
    assert 70 < len(drawn) < 130
    order = pool_order(train.sentence, SEED)
    assert (np.diff(order) > 0).all(), "in the order of the hash, not of the corpus"


def test_own_tokens_are_those_with_the_largest_sum_of_values():
    entries = empty()._replace(
        latent=np.array([2, 2, 5], np.int32),
        length=np.array([2, 1, 1], np.int32),
        token=np.array([8, 9, 8, 4], np.int32),
        value=np.array([1.0, 1.5, 2.0, 7.0], np.float32),
    )
    found = own_tokens(entries)
    assert found[2].token.tolist() == [8, 9]
    np.testing.assert_allclose(found[2].weight, [3 / 4.5, 1.5 / 4.5])
    assert found[5].token.tolist() == [4]
    assert own_tokens(empty()) == {}


def test_the_splits_are_independent_and_even():
    sentence = np.arange(200_000)
    test = is_test(sentence, 0.2, 0)
    assert abs(test.mean() - 0.2) < 0.005
    assert abs(np.corrcoef(test, is_test(sentence, 0.2, 1))[0, 1]) < 0.01
    assert abs(np.corrcoef(test, pool_order(sentence, 0))[0, 1]) < 0.01
    one, other = (1 / lots(np.full(len(sentence), i, np.int32), sentence, 0) for i in (0, 1))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.01
    assert abs(one.mean() - 0.5) < 0.005
    assert not is_test(sentence, 0.0, 0).any()
