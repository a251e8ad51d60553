"""Causal attention inside every sentence of a packed batch.

On CUDA, in half precision, one call of the variable-length kernel reads the packed rows as they are. Elsewhere
sentences of equal or nearly equal length form one call of scaled_dot_product_attention. The few padded places lie
behind a sentence's end, where the causal mask keeps every token from seeing them, and never reach a linear layer.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from monosem.lm.config import ModelConfig
from monosem.lm.packed import Packed
from monosem.lm.rotary import Rotation

_ALONE = 256
"""Tokens from which on sentences of one length are a call of their own: below, a call costs more than padding does."""


class Heads(NamedTuple):
    """Queries, keys and values of T tokens, positions turned in."""

    queries: Tensor
    """`[T, n_heads, head_dim]`"""
    keys: Tensor
    """`[T, n_kv_heads, head_dim]`"""
    values: Tensor
    """`[T, n_kv_heads, head_dim]`"""

    @classmethod
    def split(cls, qkv: Tensor, rotation: Rotation, config: ModelConfig) -> "Heads":
        """Cut the fused product `qkv [T, (n_heads + 2 n_kv_heads) * head_dim]`, which is overwritten."""
        heads = qkv.unflatten(-1, (-1, config.head_dim))
        rotation.turn_(heads[:, : config.n_heads + config.n_kv_heads])
        return cls(*heads.split([config.n_heads, config.n_kv_heads, config.n_kv_heads], dim=1))


class Group(NamedTuple):
    """Sentences that share one attention call."""

    rows: Tensor | slice
    """Packed rows of the grid `[n, length]`, flattened; padded places repeat a sentence's last row."""
    length: int
    filled: Tensor | None
    """Places of the grid that hold a token, or None when all do."""

    def to(self, device: torch.device) -> "Group":
        """The same group with its indices on `device`."""
        rows = self.rows if isinstance(self.rows, slice) else self.rows.to(device)
        return Group(rows, self.length, None if self.filled is None else self.filled.to(device))


def plan(offsets: Tensor) -> list[Group]:
    """Group the sentences of `offsets [S + 1]`, in any order, by length."""
    lengths, order = offsets.diff().sort(stable=True)
    return [_group(offsets[order[block]], lengths[block]) for block in _blocks(lengths)]


def _blocks(lengths: Tensor) -> Iterator[slice]:
    """Cut ascending `lengths` into blocks of little padding."""
    distinct, counts = lengths.unique_consecutive(return_counts=True)
    start = end = shortest = 0
    for length, count in zip(distinct.tolist(), counts.tolist(), strict=True):
        if length == 0:
            start = end = count  # ascending: empty sentences come first, and need no call
            continue
        alone = length * count >= _ALONE
        if start < end and (alone or length > shortest + shortest // 4 + 2):
            yield slice(start, end)
            start = end
        if start == end:
            shortest = length
        end += count
        if alone:
            yield slice(start, end)
            start = end
    if start < end:
        yield slice(start, end)


def _group(starts: Tensor, lengths: Tensor) -> Group:
    length = int(lengths[-1])
    n = len(starts)
    if int(lengths[0]) == length:
        if bool((starts.diff() == length).all()):
            return Group(slice(int(starts[0]), int(starts[0]) + n * length), length, None)
        return Group((starts[:, None] + torch.arange(length)).flatten(), length, None)
    place = torch.arange(length).expand(n, -1)
    rows = starts[:, None] + place.minimum(lengths[:, None] - 1)
    return Group(rows.flatten(), length, (place < lengths[:, None]).flatten().nonzero().squeeze(1))


class PackedAttention:
    """Attention of whole sentences from their first token on; planned once, used by every layer of a pass."""

    def __init__(self, config: ModelConfig, packed: Packed, dtype: torch.dtype):
        self._config = config
        self._rotation = Rotation(config, packed.position, dtype)
        self._groups: list[Group] | None = None
        if packed.ids.is_cuda and dtype in (torch.bfloat16, torch.float16):
            self._offsets = packed.offsets.to(packed.ids.device, torch.int32)
            self._longest = int(packed.offsets.diff().max()) if packed.n_sentences else 0
        else:
            self._groups = [group.to(packed.ids.device) for group in plan(packed.offsets)]

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:  # noqa: ARG002 (all layers alike; a cache tells them apart)
        """Return `z [T, n_heads * head_dim]` for the fused product `qkv`, which is overwritten."""
        return self.attend(self.split(qkv))

    def split(self, qkv: Tensor) -> Heads:
        """Cut the fused product at this pass's positions."""
        return Heads.split(qkv, self._rotation, self._config)

    def attend(self, heads: Heads) -> Tensor:
        """Return `z [T, n_heads * head_dim]`."""
        if self._groups is None:
            return varlen_attention(heads, self._offsets, self._longest)
        return by_group(self._groups, heads, causal_attention)


def varlen_attention(heads: Heads, offsets: Tensor, longest: int) -> Tensor:
    """Return `z [T, n_heads * head_dim]` for sentences at `offsets [S + 1]` int32, the longest of `longest` tokens."""
    from torch.nn.attention.varlen import varlen_attn

    z = varlen_attn(*heads, offsets, offsets, longest, longest, window_size=(-1, 0), enable_gqa=True)
    return z.flatten(1)  # pyright: ignore[reportAttributeAccessIssue]


def by_group(groups: Sequence[Group], heads: Heads, attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Return `z [T, n_heads * head_dim]`: `attention`, such as `causal_attention`, of one group after the other."""
    z = torch.empty_like(heads.queries, memory_format=torch.contiguous_format)
    for group in groups:
        grid = [part[group.rows].unflatten(0, (-1, group.length)).transpose(1, 2) for part in heads]
        seen = attention(*grid).transpose(1, 2).flatten(0, 1)
        if isinstance(group.rows, slice) or group.filled is None:
            z[group.rows] = seen
        else:
            z[group.rows[group.filled]] = seen[group.filled]
    return z.flatten(1)


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
    """Causal attention of `queries [S, n_heads, L, head_dim]` on `keys`, `values [S, n_kv_heads, L, head_dim]`.

    One call for each key head, which its query heads share as a view: letting the call repeat the keys costs half more.
    `scale` of the products: None for 1 / sqrt(head_dim).
    """
    shared = queries.shape[1] // keys.shape[1]
    z = [
        F.scaled_dot_product_attention(
            queries[:, head * shared : (head + 1) * shared],
            keys[:, head, None].expand(-1, shared, -1, -1),
            values[:, head, None].expand(-1, shared, -1, -1),
            is_causal=True,
            scale=scale,
        )
        for head in range(keys.shape[1])
    ]
    return torch.cat(z, dim=1)
