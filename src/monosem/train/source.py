"""What training asks of the place where its activations come from.

Whoever starts training hands it a `Source`: `stored` reads what `prepare` made. So training sees a language model
through a source alone, if at all.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from monosem.store.loader import Batch, Cursor
from monosem.store.pairs import Sample
from monosem.store.stats import Statistics


class Known(NamedTuple):
    """What is known of the activations at a hook point before training."""

    statistics: Statistics
    norm_threshold: float | None
    """Those with a larger norm are left out. None: none are."""
    median: NDArray[np.float64] | None = None
    """`[d]`, the geometric median. None: nobody has looked for it."""


class Feed(Protocol):
    """Batches without end, in an order that the recipe decides."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def close(self) -> None:
        """There are no batches after this."""
        ...


class Source(Protocol):
    """The activations of one run's training."""

    @property
    def rows(self) -> int:
        """Activations of an epoch."""
        ...

    def known(self) -> Known:
        """Of what is read."""
        ...

    def target(self) -> Known | None:
        """Of what a transcoder shall make of it. None: an autoencoder is trained."""
        ...

    def feed(self, cursor: Cursor, only: range | None = None) -> Feed:
        """The batches from a place on; `only`: the rows of each that are wanted, all where it is None."""
        ...

    def held_out(self) -> Iterable[Sample]:
        """`train.validation_tokens` activations that are never trained on, the same at every call."""
        ...

    def sample(self, rows: int) -> Sample:
        """At most so many activations of the training set, as good as random."""
        ...
