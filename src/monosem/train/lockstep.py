"""What keeps the loops of several processes in step: one sequence of batches, and wishes that all follow at once.

A batch's rows are read once by all processes together and gathered while the step before is computed. A wish (stop,
save) of one process is followed by all a step later, so that nobody ever waits to hear of none.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from monosem.sae.exchange import Exchange, Pending
from monosem.store.loader import Batch, Cursor
from monosem.train.parallel import Together
from monosem.train.source import Feed


class Gathered:
    """The batches of a feed that reads a part of them, with the rows that the other latent ranks have read.

    One batch is always on its way: whoever asks for one asks for the next as well.
    """

    def __init__(self, feed: Feed, together: Together, device: torch.device) -> None:
        """Start; `device`: where the batches are wanted."""
        self._feed, self._together, self._device = feed, together, device
        self._buffers: dict[tuple[str, int], Tensor] = {}
        self._asked = 0
        self._coming = self._ask()

    def __iter__(self) -> "Gathered":
        return self

    def __next__(self) -> Batch:
        """The rows of this data rank; their memory is filled anew once the next batch is asked for."""
        x, target, cursor = self._coming
        here = Batch(x(), target(), cursor)
        self._coming = self._ask()
        return here

    def close(self) -> None:
        """Take up what is on its way, and end the feed."""
        try:
            x, target, _ = self._coming
            x()
            target()
        finally:
            self._feed.close()

    def _ask(self) -> tuple[Pending, Pending, Cursor]:
        batch = next(self._feed)
        self._asked += 1
        x = self._gather("x", batch.x)
        target = x if batch.target is batch.x else self._gather("target", batch.target)
        return x, target, batch.cursor

    def _gather(self, name: str, rows: Tensor) -> Pending:
        own, place = rows.to(self._device, non_blocking=True), (name, self._asked % 2)
        if place not in self._buffers:
            shape = (len(own) * self._together.latent.ranks, *own.shape[1:])
            self._buffers[place] = torch.empty(shape, dtype=own.dtype, device=self._device)
        return self._together.gather_batch(own, self._buffers[place])


class Wish:
    """What any process wishes, as the largest number said; each process asks as often as the others."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._said: Callable[[], int] | None = None

    def heard(self, own: int) -> int:
        """Say a wish, 0 for none; returns what was wished in the call before, in this one by a process alone."""
        if self._exchange.alone:
            return own
        before, self._said = self._said, self._exchange.most(own)
        heard = 0 if before is None else before()
        if heard:
            self.close()  # whoever wished it has said so twice
        return heard

    def close(self) -> None:
        """Take up the last one."""
        if self._said is not None:
            self._said()
            self._said = None
