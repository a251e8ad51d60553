"""What of a unit is stored, and the threads that write it while the model reads the next.

An activation that one of several paired hook points leaves out is left out at all of them: the rows of their shards are
the same tokens in the same order. Few pieces wait or are being written at a time, so memory is bounded; who brings more
waits, and the time of that is kept.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.capture.reading import Captured
from monosem.store import shards
from monosem.store.encoding import CENTRE

WRITE_ROWS = 8192  # gathered at once


class Drops(NamedTuple):
    """Which of a unit's activations a hook point leaves out, `[T]` bool each; none is in two of them."""

    dropped_first: Tensor
    """The first tokens of sentences, if asked."""
    dropped_norm: Tensor
    """Those with a norm beyond the threshold."""
    nonfinite: Tensor
    """NaN or infinite as the model gave them, or in the format of the store."""

    @property
    def any(self) -> Tensor:
        return self.dropped_first | self.dropped_norm | self.nonfinite


def drops(captured: Captured, position: Tensor, norm_threshold: float | None, drop_first: bool) -> Drops:
    """What a hook point leaves out.

    Args:
        position: `[T]`, place of each token in its sentence.
        norm_threshold: None: no norm is too large.
    """
    norms, errors = captured.norms.cpu(), captured.errors.cpu()
    nonfinite = ~norms.isfinite()
    first = (position == 0) & drop_first & ~nonfinite
    over = norms > norm_threshold if norm_threshold is not None else torch.zeros_like(nonfinite)
    over &= ~nonfinite & ~first
    # a finite value can still be beyond the range of float16: its distance from what is stored is then infinite
    nonfinite |= ~errors.isfinite() & ~first & ~over
    return Drops(first, over, nonfinite)


def write_rows(path: Path, captured: Captured, origin: Mapping[str, Tensor], chosen: Tensor) -> None:
    """Write the activations of the rows `chosen [T]` bool as a shard, without a copy of them all.

    Args:
        origin: `[T]` sentence, position and token.
    """
    tensors = shards.shard_tensors(captured.stored, origin, captured.form)
    rows = chosen.nonzero().flatten()

    def blocks(name: str, tensor: Tensor) -> Iterator[Tensor]:
        if name == CENTRE:
            yield tensor
        else:
            yield from (tensor[part] for part in rows.split(WRITE_ROWS))

    shapes = {
        name: (tensor.dtype, tuple(tensor.shape) if name == CENTRE else (len(rows), *tensor.shape[1:]))
        for name, tensor in tensors.items()
    }
    shards.write_blocks(path, shapes, (blocks(name, tensor) for name, tensor in tensors.items()))


class Writer:
    """Does pieces of work in threads, in any order; `waited` counts the seconds that who brings them had to wait."""

    def __init__(self, threads: int, most: int) -> None:
        """Start the threads.

        Args:
            most: pieces that wait or are being done at one time.
        """
        self.waited = 0.0
        self._free = threading.BoundedSemaphore(most)
        self._pool, self._futures = ThreadPoolExecutor(threads), list[Future[None]]()

    def put(self, piece: Callable[[], None]) -> None:
        """Hand over work. Raises what an earlier piece raised."""
        started = time.monotonic()
        self._free.acquire()
        self.waited += time.monotonic() - started
        for done in [future for future in self._futures if future.done()]:
            self._futures.remove(done)
            done.result()
        self._futures.append(self._pool.submit(self._do, piece))

    def finish(self) -> None:
        """Wait for what is left. Raises what a piece raised."""
        started = time.monotonic()
        for future in self._futures:
            future.result()
        self.waited += time.monotonic() - started

    def _do(self, piece: Callable[[], None]) -> None:
        try:
            piece()
        finally:
            self._free.release()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
