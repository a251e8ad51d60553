"""Sentences laid one after the other, so that no padding enters a linear layer."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """S sentences as one run of T tokens."""

    ids: Tensor
    """`[T]` int64, vocabulary ids."""
    position: Tensor
    """`[T]` int64, a token's place in its sentence, from 0."""
    offsets: Tensor
    """`[S + 1]` int64; sentence s is `ids[offsets[s]:offsets[s + 1]]`. Kept on the CPU, where passes are planned."""

    @classmethod
    def pack(cls, sentences: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> "Packed":
        """Pack token id sequences in the order given."""
        lengths = torch.tensor([len(sentence) for sentence in sentences], dtype=torch.int64)
        offsets = torch.zeros(len(sentences) + 1, dtype=torch.int64)
        torch.cumsum(lengths, 0, out=offsets[1:])
        ids = torch.tensor(list(chain.from_iterable(sentences)), dtype=torch.int64)
        position = torch.arange(len(ids)) - offsets[:-1].repeat_interleave(lengths)
        return cls(ids.to(device), position.to(device), offsets)

    def to(self, device: torch.device) -> "Packed":
        """The same sentences with `ids` and `position` on `device`."""
        return Packed(self.ids.to(device), self.position.to(device), self.offsets.cpu())

    @property
    def n_tokens(self) -> int:
        """T."""
        return self.ids.shape[0]

    @property
    def n_sentences(self) -> int:
        """S."""
        return self.offsets.shape[0] - 1

    @property
    def lengths(self) -> Tensor:
        """`[S]` int64, tokens of each sentence."""
        return self.offsets.diff()

    @property
    def sentence(self) -> Tensor:
        """`[T]` int64, the sentence a token belongs to."""
        return torch.arange(self.n_sentences).repeat_interleave(self.lengths).to(self.ids.device)

    @property
    def last(self) -> Tensor:
        """`[S]` int64, the row of each sentence's last token."""
        return (self.offsets[1:] - 1).to(self.ids.device)
