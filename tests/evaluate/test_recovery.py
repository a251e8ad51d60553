"""Recovery measures on cases whose answer is known."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from monosem.errors import SaeError
from monosem.evaluate.recovery import Learned, Matching, Recovery, match, measure
from monosem.evaluate.synthetic import Synthetic, SyntheticBatch, SyntheticSettings

DATA = Synthetic(SyntheticSettings(n_true=120, d=32, l0=4.0, clusters=2, rank=2, bias=1.0, seed=1))
N, D = 120, 32


class Laid:
    """Codes laid out."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def dense(self) -> Tensor:
        return self.values


def fresh(rows: int = 500, count: int = 3) -> list[SyntheticBatch]:
    return list(DATA.batches(rows, count, "test"))


def oracle(test: list[SyntheticBatch], change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Laid]:
    """An encoder that knows the true codes of every test batch."""
    known = {id(batch.x): batch.codes.dense() for batch in test}
    return lambda x: Laid(change(known[id(x)]))


def measured(
    w_dec: Tensor, change: Callable[[Tensor], Tensor], signed: bool = False, seen: Tensor | None = None
) -> Recovery:
    test = fresh()
    learned = Learned(w_dec, DATA.bias, oracle(test, change), signed)
    return measure(learned, DATA.dictionary, DATA.frequency, test, seen)


def test_the_true_dictionary_is_found_whole():
    found = measured(DATA.dictionary, lambda codes: codes)
    assert found.rows == 1500
    for name in ("mcc", "mcc_weighted", "mcc_seen", "recovered", "f1", "f1_weighted"):
        assert getattr(found, name) == pytest.approx(1.0, abs=1e-6), name
    assert found.fvu < 1e-10
    assert found.l0 == found.l0_true == pytest.approx(4.0, abs=0.5)
    assert found.seen == N
    assert all(band.mcc == pytest.approx(1, abs=1e-6) and band.recovered == 1 for band in found.bands)


def test_order_and_length_of_rows_do_not_matter():
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    length = torch.rand(N, generator=torch.Generator().manual_seed(1)) + 0.5
    found = measured(DATA.dictionary[order] * length[:, None], lambda codes: codes[:, order] / length)
    assert found.mcc == pytest.approx(1.0, abs=1e-6)
    assert found.f1 == 1.0
    assert found.fvu < 1e-10


def test_a_reversed_latent_is_a_match_only_where_codes_are_signed():
    sign = torch.where(torch.arange(N) % 2 == 0, 1.0, -1.0)
    reversed_rows = DATA.dictionary * sign[:, None]
    signed = measured(reversed_rows, lambda codes: codes * sign, signed=True)
    assert signed.mcc == pytest.approx(1.0, abs=1e-6)
    assert signed.f1 == 1.0, "a negative code of a reversed latent is its feature"
    wrong_way = measured(reversed_rows, lambda codes: codes, signed=True)
    assert wrong_way.f1 == pytest.approx(0.5, abs=0.1)
    assert measured(reversed_rows, lambda codes: codes * sign).mcc < 0.8


def test_random_rows_give_chance():
    rows = torch.randn(N, D, generator=torch.Generator().manual_seed(2))
    found = measured(rows, lambda codes: torch.zeros_like(codes))
    # the best of 120 random cosines in 32 dimensions is about 0.5
    assert 0.3 < found.mcc < 0.55
    assert found.recovered == 0
    assert found.f1 == 0
    assert found.l0 == 0


def test_a_feature_without_a_latent_counts_as_zero():
    found = measured(DATA.dictionary[:30], lambda codes: codes[:, :30])
    assert found.mcc == pytest.approx(30 / N, abs=0.01), "the other 90 have no latent"
    assert found.recovered == 30 / N
    assert found.mcc_weighted > 0.6, "they were the frequent ones"
    assert [round(band.mcc, 2) for band in found.bands] == [1.0, 0.0, 0.0, 0.0]
    assert [band.f1 for band in found.bands] == [1.0, 0.0, 0.0, 0.0]


def test_bands_run_from_frequent_to_rare():
    bands = measured(DATA.dictionary, lambda codes: codes).bands
    assert [band.features for band in bands] == [30] * 4
    assert all(a.low >= b.high for a, b in pairwise(bands))


def test_f1_counts_what_fires_against_what_is_active():
    test = fresh()
    truth = torch.cat([batch.codes.dense() for batch in test]) > 0
    silent = 7  # misses every second of its feature's firings

    def half(codes: Tensor) -> Tensor:
        codes = codes.clone()
        codes[::2, silent] = 0
        return codes

    hits = sum(int((batch.codes.dense()[1::2, silent] > 0).sum()) for batch in test)
    expected = 2 * hits / (hits + int(truth[:, silent].sum()))
    found = measured(DATA.dictionary, half)
    active = int((truth.any(0)).sum())
    assert found.f1 == pytest.approx(1 - (1 - expected) / active, abs=1e-9)


def test_features_that_never_fired_in_training_can_be_left_out():
    seen = torch.arange(N) < 60
    w_dec = DATA.dictionary.clone()
    w_dec[60:] = torch.randn(60, D, generator=torch.Generator().manual_seed(3))
    found = measured(w_dec, lambda codes: codes, seen=seen)
    assert found.seen == 60
    assert found.mcc_seen == pytest.approx(1.0, abs=1e-6)
    assert found.mcc < 0.85


def test_the_assignment_is_the_best_one_and_one_to_one():
    dictionary = torch.eye(3)
    # greedy would give feature 0 its nearest latent 0, and leave feature 1 with nothing
    rows = torch.tensor([[0.8, 0.6, 0.0], [0.75, 0.0, 0.6614], [0.0, 0.0, 1.0]])
    matching = match(Learned(rows, torch.zeros(3), lambda x: Laid(x)), dictionary)
    assert matching.latent.tolist() == [1, 0, 2]
    torch.testing.assert_close(matching.cosine, torch.tensor([0.75, 0.6, 1.0]), rtol=1e-3, atol=1e-4)


def test_rows_of_zeros_or_of_a_diverged_run_match_nothing():
    rows = torch.stack([torch.zeros(4), torch.full((4,), float("nan")), torch.tensor([0.0, 0.0, 2.0, 0.0])])
    matching = match(Learned(rows, torch.zeros(4), lambda x: Laid(x)), torch.eye(4))
    assert isinstance(matching, Matching)
    assert matching.latent.tolist() == [-1, -1, 2, -1]
    assert matching.cosine.tolist() == [0, 0, 1, 0]


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(SaeError, match="transpose the decoder"):
        Learned(torch.zeros(32, 120), torch.zeros(32), lambda x: Laid(x))
    with pytest.raises(SaeError, match="width 16"):
        match(Learned(torch.zeros(4, 16), torch.zeros(16), lambda x: Laid(x)), DATA.dictionary)
