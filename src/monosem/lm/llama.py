"""Llama in pure PyTorch, on packed tokens.

A pass is a generator (`Llama._walk`): it yields the value at every hook point, in order, and goes on with what it is
sent. Whoever drives it captures, edits, and stops early; the model itself knows of no hook. Works in place between hook
points. Attention is a callable `attend(layer, qkv) -> z`, so that whole sentences and cached generation share the walk.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monosem.errors import ModelError
from monosem.lm.attention import PackedAttention
from monosem.lm.between import EAGER, Between, compiled
from monosem.lm.cache import CachedDecoder, KVCache
from monosem.lm.config import ModelConfig
from monosem.lm.generate import Sampling, Step, generate
from monosem.lm.hookpoints import HookPoint
from monosem.lm.hooks import Hook, Hooks, Watcher, stack
from monosem.lm.packed import Packed
from monosem.lm.products import Products
from monosem.lm.tail import Divergence, kl_gradient
from monosem.lm.tokenizer import Tokenizer

Attend = Callable[[int, Tensor], Tensor]
"""`attend(layer, qkv [T, (n_heads + 2 n_kv_heads) * head_dim]) -> z [T, n_heads * head_dim]`; may overwrite `qkv`."""


class Visit(NamedTuple):
    """The value at one hook point of a pass."""

    point: HookPoint
    x: Tensor
    """`[T, width]`"""


Walk = Generator[Visit, Tensor, Tensor]


class Block(nn.Module):
    """The weights of one layer. Products that read the same input are fused: q, k, v, and gate, up."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        d, f, z = config.d_model, config.d_ff, config.z_width
        self.attn_norm = _weight(d)
        self.qkv = _weight(z + 2 * config.kv_width, d)
        self.out = _weight(d, z)
        self.mlp_norm = _weight(d)
        self.gate_up = _weight(2 * f, d)
        self.down = _weight(d, f)

    def mlp(self, x: Tensor, product: Products, between: Between) -> Tensor:
        return product(between.gate(product(x, self.gate_up)), self.down)


class Llama(nn.Module):
    """A Llama-architecture model; its methods are described in `monosem.lm.protocol.LanguageModel`."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, name: str = "llama"):
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.name = name
        self.embed = _weight(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = _weight(config.d_model)
        self.head = None if config.tied else _weight(config.vocab_size, config.d_model)
        self._hooks: Hooks = {}
        self._product = Products()
        self._between = EAGER

    @property
    def device(self) -> torch.device:
        return self.embed.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.dtype

    def fuse(self) -> None:
        """Compile what stands between the products, for all passes from now on; raises as `between.compiled`."""
        self._between = compiled()

    @torch.no_grad()
    def logits(self, packed: Packed) -> Tensor:
        packed = self._checked(packed)
        return self.unembed(drive(self._begun(packed), self._watcher()))

    @torch.no_grad()
    def activations(
        self, packed: Packed, hook_points: Sequence[str], start: tuple[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        points = {name: HookPoint.parse(name, self.config.n_layers).canonical for name in hook_points}
        packed = self._checked(packed)
        watcher = self._watcher(points.values())
        drive(self._begun(packed, start), watcher)
        return {name: watcher.captured[point] for name, point in points.items()}

    @torch.no_grad()
    def resume(self, hook_point: str, activations: Tensor, packed: Packed) -> Tensor:
        return self.unembed(drive(self._begun(self._checked(packed), (hook_point, activations)), self._watcher()))

    def kl_gradient(self, hook_point: str, x: Tensor, x_hat: Tensor, packed: Packed) -> Divergence:
        return kl_gradient(self, hook_point, x, x_hat, self._checked(packed))

    @contextlib.contextmanager
    def hooks(self, hooks: Mapping[str, Hook]) -> Iterator[None]:
        outer = self._hooks
        self._hooks = stack(outer, {HookPoint.parse(name, self.config.n_layers): fn for name, fn in hooks.items()})
        try:
            yield
        finally:
            self._hooks = outer

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int] | None = None
    ) -> Iterator[Step]:
        return generate(self, prompts, sampling, seeds)

    def decoder(self, rows: int, capacity: int) -> CachedDecoder:
        """An empty KV-cache decoder under the hooks active now (`monosem.lm.generate.Decoder`)."""
        hooks = self._hooks

        def run(ids: Tensor, attend: Attend, wanted: Tensor) -> Tensor:
            walk = self._walk(_START, F.embedding(ids, self.embed), attend)
            return self.unembed(drive(walk, Watcher(hooks, (), self.config.norm_eps))[wanted])

        cache = KVCache(self.config, rows, capacity, self.dtype, self.device)
        return CachedDecoder(self.config, cache, run)

    def unembed(self, x: Tensor) -> Tensor:
        """Return the logits `[T, vocab]`, fp32, of `x [T, d]` as `{last}.resid_post.norm` has it."""
        return self._product(x, self.embed if self.head is None else self.head).float()

    def _walk(self, start: HookPoint, x: Tensor, attend: Attend) -> Walk:
        """Pass through the model from a residual point between blocks, where `x [T, d]` is, to the last norm.

        Points are visited under their canonical names.
        """
        eps, product, between = self.config.norm_eps, self._product, self._between
        first = start.layer + (start.site == "resid_post")
        x = yield Visit(start, x)
        for layer in range(first, self.config.n_layers):
            block = cast(Block, self.blocks[layer])
            before = HookPoint(layer, "resid_pre").canonical
            normed = yield Visit(before.normed, between.norm(x, block.attn_norm, eps))
            z = yield Visit(HookPoint(layer, "z"), attend(layer, product(normed, block.qkv)))
            out = yield Visit(HookPoint(layer, "attn_out"), product(z, block.out))
            middle = HookPoint(layer, "resid_mid")
            x = yield Visit(middle, x.add_(out))
            normed = yield Visit(middle.normed, between.norm(x, block.mlp_norm, eps))
            out = yield Visit(HookPoint(layer, "mlp_out"), block.mlp(normed, product, between))
            x = yield Visit(HookPoint(layer, "resid_post"), x.add_(out))
        last = HookPoint(self.config.n_layers - 1, "resid_post", norm=True)
        return (yield Visit(last, between.norm(x, self.norm, eps)))

    def _checked(self, packed: Packed) -> Packed:
        longest = int(packed.lengths.max()) if packed.n_sentences else 0
        if longest > self.config.context_length:
            raise ModelError(f"a sentence of {longest} tokens exceeds the context of {self.config.context_length}")
        return packed.to(self.device)

    def _begun(self, packed: Packed, start: tuple[str, Tensor] | None = None) -> Walk:
        """A walk over whole sentences, from their tokens or from activations at a residual point."""
        attend = PackedAttention(self.config, packed, self.dtype)
        if start is None:
            return self._walk(_START, F.embedding(packed.ids, self.embed), attend)
        name, activations = start
        point = HookPoint.parse(name, self.config.n_layers)
        if point.norm or point.site not in ("resid_pre", "resid_post"):
            raise ModelError(f"a pass resumes at L.resid_pre or L.resid_post, not at {name}")
        expected = (packed.n_tokens, self.config.d_model)
        if activations.shape != expected:
            raise ModelError(f"activations at {name} have shape {list(activations.shape)}, expected {list(expected)}")
        return self._walk(point.canonical, activations.to(self.device, self.dtype, copy=True), attend)

    def _watcher(self, wanted: Iterable[HookPoint] = ()) -> Watcher:
        return Watcher(self._hooks, wanted, self.config.norm_eps)


_START = HookPoint(0, "resid_pre")


def drive(walk: Walk, watcher: Watcher) -> Tensor:
    """Take a walk to its end, or until the watcher has what it wanted; returns the walk's last value."""
    visit = next(walk)
    while True:
        x = watcher.visit(visit.point, visit.x)
        if watcher.done:
            return x
        try:
            visit = walk.send(x)
        except StopIteration as end:
            return end.value


def _weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape), requires_grad=False)
