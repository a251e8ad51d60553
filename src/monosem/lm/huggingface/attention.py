"""The attention of transformers' models on packed sentences, whole or one more token a row.

Transformers calls attention through a table of functions; `register` puts ours there. It gets queries and keys with
their positions in them, so sentences stand in one row of T tokens and no padding enters a linear layer; keys and values
are kept here, in our cache, for the same reason. Knows no module of a model.
"""

from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monosem.errors import ModelError
from monosem.lm.attention import Heads, by_group, causal_attention, plan
from monosem.lm.cache import KVCache
from monosem.lm.packed import Packed

NAME = "monosem"
"""Of our function in transformers' table."""


class Rule(NamedTuple):
    """How a layer attends, besides causally."""

    scale: float
    """Factor of the products of queries and keys."""
    window: int | None = None
    """A token sees itself and the `window - 1` tokens before it. None: all."""
    softcap: float | None = None
    """Products are bent to `softcap * tanh(product / softcap)` (Gemma 2, arXiv 2408.00118 §2)."""


class Attention(Protocol):
    """What a pass attends with."""

    def __call__(self, layer: int, heads: Heads, rule: Rule) -> Tensor:
        """Return `z [T, n_heads * head_dim]`."""
        ...


class SentenceAttention:
    """Whole sentences; leaves their keys and values in an empty cache, if there is one."""

    def __init__(self, packed: Packed, cache: KVCache | None = None):
        self._packed, self._cache = packed, cache
        self._groups = [group.to(packed.ids.device) for group in plan(packed.offsets)]

    def __call__(self, layer: int, heads: Heads, rule: Rule) -> Tensor:
        if self._cache is not None:
            self._cache.write(layer, self._packed.sentence, self._packed.position, heads)

        def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            length = queries.shape[2]
            if rule.softcap is None and (rule.window is None or length <= rule.window):
                return causal_attention(queries, keys, values, rule.scale)
            place = torch.arange(length, device=queries.device)
            shared = queries.shape[1] // keys.shape[1]
            keys, values = (part.repeat_interleave(shared, 1) for part in (keys, values))
            return _attend(queries, keys, values, _seen(place[:, None], place, rule), rule)

        return by_group(self._groups, heads, attend)


class StepAttention:
    """One new token a row, on all that the cache holds of the row."""

    def __init__(self, cache: KVCache):
        self._cache = cache
        self.position = cache.lengths.clone()
        self._row = torch.arange(len(self.position), device=self.position.device)
        self._longest = int(self.position.max()) + 1

    def __call__(self, layer: int, heads: Heads, rule: Rule) -> Tensor:
        self._cache.write(layer, self._row, self.position, heads)
        keys = self._cache.keys[layer, :, :, : self._longest]
        values = self._cache.values[layer, :, :, : self._longest]
        # The query heads that share a key head stand in the place of its query positions: no key is repeated.
        queries = heads.queries.unflatten(1, (keys.shape[1], -1))
        place = torch.arange(self._longest, device=keys.device)
        seen = _seen(self.position[:, None], place, rule)[:, None, None, :]
        return _attend(queries, keys, values, seen, rule).flatten(1)


def _seen(at: Tensor, places: Tensor, rule: Rule) -> Tensor:
    """Which `places` the tokens `at` see; the two broadcast."""
    seen = places <= at
    return seen if rule.window is None else seen & (places > at - rule.window)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor, rule: Rule) -> Tensor:
    """Attention of `queries [..., L, head_dim]` on those of `keys`, `values [..., M, head_dim]` that they see."""
    if rule.softcap is None:
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen, scale=rule.scale)
    products = queries @ keys.transpose(-1, -2) * rule.scale
    products = rule.softcap * torch.tanh(products / rule.softcap)
    return products.masked_fill(~seen, -torch.inf).softmax(-1, dtype=torch.float32).to(values.dtype) @ values


ATTENTION: ContextVar[Attention] = ContextVar("attention of the pass that runs")


def register() -> None:
    """Make our attention known to transformers, under `NAME`. Masks are its own affair: transformers makes none."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it: `query [1, n_heads, T, head_dim]` to `[1, T, n_heads, head_dim]`."""
    if attention_mask is not None or others.get("s_aux") is not None or not getattr(module, "is_causal", True):
        raise ModelError(f"{type(module).__name__} is not plain causal attention, the only kind that is known")
    heads = Heads(*(part[0].transpose(0, 1) for part in (query, key, value)))
    rule = Rule(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap)
    layer: Any = module.layer_idx
    return ATTENTION.get()(layer, heads, rule).unflatten(1, (query.shape[1], -1))[None], None
