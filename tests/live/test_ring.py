"""The ring: every row once, mixed, the same from any place on."""

from collections.abc import Iterator, Sequence
from itertools import islice

import pytest
import torch
from torch import Tensor

from monosem.finetune.reader import Place
from monosem.live.ring import Feed, Window
from monosem.store.loader import Cursor

SENTENCES = 600  # an epoch; sentence s has 1 + s % 7 rows, the first of which is dropped in every fifth
HALF, BATCH = 200, 48


def read(sentences: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """A row holds its sentence and its place; the target holds them, too."""
    for ids in sentences:
        rows = torch.tensor([[ids[0], place] for place in range(len(ids)) if place or ids[0] % 5]).float()
        yield rows.view(-1, 2), 10 * rows.view(-1, 2)


def windows(place: Place) -> Iterator[Window]:
    epoch, row = place
    while True:
        ids, start = [], Place(epoch, row)
        while sum(map(len, ids)) < HALF - 7:
            ids.append([row] * (1 + row % 7))
            row += 1
            if row == SENTENCES:
                epoch, row = epoch + 1, 0
        yield Window(start, ids)


def feed(cursor: Cursor | None = None, seed: int = 0) -> Feed:
    ring = [torch.empty(2 * HALF, 2), torch.empty(2 * HALF, 2)]
    return Feed(ring, read, windows, BATCH, seed, cursor or Cursor())


def taken(source: Feed, count: int) -> list[tuple[Tensor, Cursor]]:
    batches = []
    for batch in islice(source, count):
        assert torch.equal(batch.target, 10 * batch.x)
        batches.append((batch.x.clone(), batch.cursor))
    return batches


def test_every_row_is_served_once_before_the_next_epoch_ends() -> None:
    expected = sum(1 + s % 7 - (s % 5 == 0) for s in range(SENTENCES))
    rows = torch.cat([x for x, _ in taken(feed(), 3 * expected // BATCH)])
    counts = torch.zeros(SENTENCES, 7, dtype=torch.int64)
    counts.index_put_((rows[:, 0].long(), rows[:, 1].long()), torch.ones(len(rows), dtype=torch.int64), accumulate=True)
    there = torch.tensor([[p < 1 + s % 7 and (p > 0 or s % 5 > 0) for p in range(7)] for s in range(SENTENCES)])
    assert not counts[~there].any()
    assert int(counts[there].min()) >= 2
    assert int(counts[there].max()) <= 4
    assert abs(float(counts[there].float().mean()) - 3) < 0.2


def test_batches_mix_what_the_ring_holds() -> None:
    for x, _ in taken(feed(), 20)[3:]:
        assert len(x[:, 0].unique()) > BATCH // 3
        assert float(x[:, 0].max() - x[:, 0].min()) > HALF / 7  # from more than one window of about 50 sentences


@pytest.mark.parametrize("done", [1, 2, 3, 7, 20, 41])
def test_any_place_can_be_gone_on_from(done: int) -> None:
    whole = taken(feed(seed=4), done + 12)
    left = taken(feed(whole[done - 1][1], seed=4), 12)
    assert all(torch.equal(a, b) and c == d for (a, c), (b, d) in zip(whole[done:], left, strict=True))


def test_the_seed_decides() -> None:
    one, again, other = (taken(feed(seed=seed), 5) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(one, again, strict=True))
    assert not torch.equal(one[0][0], other[0][0])
