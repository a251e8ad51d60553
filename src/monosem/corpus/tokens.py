"""Sentences as the token ids that a model reads: as its tokenizer gives them, cut to a longest length.

Most families have no beginning-of-sequence token there, so that latents carry meaning, not position. Knows nothing of
where the sentences come from.
"""

from collections.abc import Sequence
from typing import Protocol


class Encoder(Protocol):
    """The part of a tokenizer that is needed here."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...


def encode(tokenizer: Encoder, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids of each text, at most `max_tokens` of them."""
    return [ids[:max_tokens] for ids in tokenizer.encode_batch(texts)]
