"""Codes of a block of sentences, turned round: from "which latents fire here" to "where does this latent fire".

Flow: `group` sorts the codes by latent (they come by sentence and position, which the sort keeps), finds the runs that
share a latent and a sentence, and aggregates each run. Everything is a flat array; nothing here is ever [tokens, n].
Knows nothing of files, ranks or text.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from monosem.interpret.codes import Codes


class Firings(NamedTuple):
    """G groups, one for each latent and sentence it fires in, by latent, then sentence; E firing tokens in all."""

    latent: NDArray[np.int32]
    """[G]"""
    sentence: NDArray[np.int64]
    """[G]"""
    offsets: NDArray[np.int64]
    """[G + 1]: group g's tokens are `offsets[g]:offsets[g + 1]`."""
    position: NDArray[np.int32]
    """[E], ascending within a group."""
    token: NDArray[np.int32]
    """[E] vocabulary ids."""
    value: NDArray[np.float32]
    """[E], larger than 0."""
    tokens: NDArray[np.int32]
    """[G]: tokens of the sentence that the store holds, firing or not."""
    last: NDArray[np.bool_]
    """[G]: whether the group's last token is the last of the sentence that the store holds."""


def group(codes: Codes) -> Firings:
    """Group the codes of whole sentences by latent and sentence; a code that is not larger than 0 does not fire."""
    ordinal = codes.ordinal()
    final_row = np.cumsum(codes.length) - 1

    # torch sorts 32-bit integers by radix: stable, and several times faster than numpy's argsort.
    firing = np.flatnonzero(codes.value > 0)
    latent, order = torch.sort(torch.from_numpy(codes.latent[firing].astype(np.int32)), stable=True)
    entry = firing[order.numpy()]
    row = codes.row()[entry]
    by_sentence = ordinal[row]

    first = np.flatnonzero(changes(latent.numpy()) | changes(by_sentence))
    offsets = np.append(first, len(entry)).astype(np.int64)
    in_block = by_sentence[first]
    return Firings(
        latent=latent.numpy()[first],
        sentence=codes.sentence[in_block],
        offsets=offsets,
        position=codes.position[row],
        token=codes.token[row],
        value=codes.value[entry],
        tokens=codes.length[in_block],
        last=row[offsets[1:] - 1] == final_row[in_block],
    )


def changes(values: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Where an element differs from the one before it; the first always does."""
    changed = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=changed[1:])
    return changed


def aggregate(firings: Firings, aggregation: str) -> NDArray[np.float32]:
    """One number for each group, [G].

    `mean` is over all tokens of the sentence that the store holds, `last` the value at the last of them, `max` the
    largest. Sums run in float64, where a few hundred float32 values add up exactly, so no order of summing shows.
    """
    starts = firings.offsets[:-1]
    if len(starts) == 0:
        return np.zeros(0, dtype=np.float32)
    if aggregation == "mean":
        return (np.add.reduceat(firings.value, starts, dtype=np.float64) / firings.tokens).astype(np.float32)
    if aggregation == "last":
        return np.where(firings.last, firings.value[firings.offsets[1:] - 1], np.float32(0))
    assert aggregation == "max", aggregation
    return np.maximum.reduceat(firings.value, starts)
