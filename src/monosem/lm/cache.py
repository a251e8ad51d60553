"""Keys and values kept between the steps of generation, and attention on them.

Rows are prompts. The first pass reads whole prompts, packed; every further pass reads one token a row. Padding exists
only inside attention, where rows of different length meet; linear layers see the tokens alone.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from monosem.lm.attention import Heads, PackedAttention
from monosem.lm.config import ModelConfig
from monosem.lm.packed import Packed
from monosem.lm.rotary import Rotation

Run = Callable[[Tensor, Callable[[int, Tensor], Tensor], Tensor], Tensor]
"""`run(ids [T], attend, rows [R]) -> [R, vocab]`: the model, given its attention; the logits at `rows` come out."""


class KVCache:
    """Keys and values of every layer for R rows of at most `capacity` tokens."""

    def __init__(self, config: ModelConfig, rows: int, capacity: int, dtype: torch.dtype, device: torch.device):
        shape = (config.n_layers, rows, config.n_kv_heads, capacity, config.head_dim)
        # Zeros, not garbage: a masked place has weight 0, and 0 x NaN would be NaN.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)

    def write(self, layer: int, row: Tensor, position: Tensor, heads: Heads) -> None:
        """Store the keys and values of T tokens at `row [T]`, `position [T]`."""
        self.keys[layer][row, :, position] = heads.keys
        self.values[layer][row, :, position] = heads.values

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self.keys, self.values, self.lengths = self.keys[:, rows], self.values[:, rows], self.lengths[rows]


class PromptAttention:
    """Attention of whole prompts, leaving their keys and values in an empty cache."""

    def __init__(self, config: ModelConfig, packed: Packed, cache: KVCache):
        self._config, self._packed, self._cache = config, packed, cache
        self._row = packed.sentence
        self._within = PackedAttention(config, packed, cache.keys.dtype)

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        heads = self._within.split(qkv)
        self._cache.write(layer, self._row, self._packed.position, heads)
        return self._within.attend(heads)


class StepAttention:
    """Attention of one new token a row on all before it."""

    def __init__(self, config: ModelConfig, cache: KVCache):
        self._config, self._cache = config, cache
        self.row = torch.arange(len(cache.lengths), device=cache.lengths.device)
        self._position = cache.lengths.clone()
        self._rotation = Rotation(config, self._position, cache.keys.dtype)
        self._longest = int(self._position.max()) + 1
        places = torch.arange(self._longest, device=cache.lengths.device)
        unseen = (places > self._position[:, None])[:, None, None, :]
        # Added to the products: a mask of bools would become this one in every layer again.
        self._mask = torch.zeros(unseen.shape, dtype=cache.keys.dtype, device=unseen.device)
        self._mask.masked_fill_(unseen, -torch.inf)

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        heads = Heads.split(qkv, self._rotation, self._config)
        self._cache.write(layer, self.row, self._position, heads)
        keys = self._cache.keys[layer, :, :, : self._longest]
        values = self._cache.values[layer, :, :, : self._longest]
        # The query heads that share a key head stand in the place of its query positions: no key is repeated.
        queries = heads.queries.unflatten(1, (self._config.n_kv_heads, -1))
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=self._mask).flatten(1)


class CachedDecoder:
    """Next-token logits for rows that grow token by token (`monosem.lm.generate.Decoder`)."""

    def __init__(self, config: ModelConfig, cache: KVCache, run: Run):
        self._config, self._cache, self._run = config, cache, run

    @torch.no_grad()
    def begin(self, prompts: Packed) -> Tensor:
        attention = PromptAttention(self._config, prompts, self._cache)
        logits = self._run(prompts.ids, attention, prompts.last)
        self._cache.lengths += prompts.lengths.to(self._cache.lengths.device)
        return logits

    @torch.no_grad()
    def step(self, ids: Tensor) -> Tensor:
        attention = StepAttention(self._config, self._cache)
        logits = self._run(ids, attention, attention.row)
        self._cache.lengths += 1
        return logits

    def keep(self, rows: Tensor) -> None:
        self._cache.keep(rows)
