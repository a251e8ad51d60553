"""The pieces of a capture: sentences that make one shard of each hook point."""

from collections.abc import Iterator
from typing import NamedTuple


class Unit(NamedTuple):
    """Sentences that make one shard of each hook point."""

    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"activations-{self.number:05d}.safetensors"


def units(sentences: int, size: int) -> Iterator[Unit]:
    """The units of `size` sentences, in order; the last may be smaller."""
    for number in range(-(-sentences // size)):
        yield Unit(number, number * size, min((number + 1) * size, sentences))
