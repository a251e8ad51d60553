"""Latents that fire on one token whatever stands around it.

Flow: vocabulary ids that differ only in case and white space are one token; each latent's token is the most frequent
one in its examples; then all codes are read once, and firings and occurrences are counted. Memory is bounded by the
vocabulary and the latents. Knows nothing of text beyond tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monosem.interpret.codes import Codes, StoredCodes
from monosem.lm.tokenizer import Tokenizer

NONE = -1


class Classes(NamedTuple):
    """Vocabulary ids that stand for the same token."""

    of_id: NDArray[np.int32]
    """[vocabulary]"""
    names: list[str]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Classes":
        """Those of a vocabulary: the same but for case and white space around; white space alone is kept."""
        numbers: dict[str, int] = {}
        pieces = tokenizer.pieces(range(tokenizer.vocab_size))
        of_id = [numbers.setdefault(piece.strip().casefold() or piece, len(numbers)) for piece in pieces]
        return cls(np.array(of_id, dtype=np.int32), list(numbers))


class TokenCounts(NamedTuple):
    """How each latent fires on its own token, over the whole store, [n]."""

    fires: NDArray[np.int64]
    """Tokens on which it fires."""
    on_token: NDArray[np.int64]
    """Those that are its token."""
    occurrences: NDArray[np.int64]
    """Tokens that are its token, whether it fires or not."""

    @property
    def share(self) -> NDArray[np.float64]:
        """Share of its firing tokens that are its token."""
        return self.on_token / np.maximum(self.fires, 1)

    @property
    def rate(self) -> NDArray[np.float64]:
        """Share of its token's occurrences on which it fires."""
        return self.on_token / np.maximum(self.occurrences, 1)


def most_frequent(n: int, latent: NDArray[np.int64], token: NDArray[np.int32]) -> NDArray[np.int32]:
    """[n] the token class that stands most often beside each latent, of equal ones the lowest; -1 for none."""
    found = np.full(n, NONE, dtype=np.int32)
    if len(latent):
        key, count = np.unique(latent << 32 | token, return_counts=True)
        order = np.lexsort((key, -count))[::-1]  # the last one written stays
        found[key[order] >> 32] = key[order] & 0xFFFFFFFF
    return found


def count(
    codes: StoredCodes, classes: Classes, own: NDArray[np.int32], advance: Callable[[int], None] = lambda _: None
) -> TokenCounts:
    """Read all codes. own: [n] class of each latent's token, -1 for none."""
    fires, on_token = np.zeros(codes.n, np.int64), np.zeros(codes.n, np.int64)
    tokens = np.zeros(len(classes.names), np.int64)
    for shard in codes.shards:
        block: Codes = codes.read(shard)
        token = classes.of_id[block.token]
        latent = block.latent[block.value > 0]
        at = token[block.row()[block.value > 0]]
        fires += np.bincount(latent, minlength=codes.n)
        on_token += np.bincount(latent[at == own[latent]], minlength=codes.n)
        tokens += np.bincount(token, minlength=len(tokens))
        advance(shard.rows)
    return TokenCounts(fires, on_token, np.where(own == NONE, 0, tokens[own]))
