"""What follows a hook point, with gradients: how far other activations move the predictions, and which way is back.

Flow: a `Tail` is a chain of functions, one a block, from the hook point to the last norm. The clean and the edited pass
go down it; the head compares their predictions a few rows at a time, its gradient written out; then the gradient climbs
the chain, each block being computed once more, so that the intermediate values of one block alone are ever held. The
model's weights are constants. Same arithmetic as `llama`, which works in place and therefore has no gradients.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from monosem.errors import ModelError
from monosem.lm.attention import Heads, by_group, causal_attention, plan
from monosem.lm.hookpoints import RESIDUAL, HookPoint
from monosem.lm.packed import Packed
from monosem.lm.rotary import Rotation

if TYPE_CHECKING:
    from monosem.lm.llama import Block, Llama

HEAD_ROWS = 128
"""Rows whose values over the whole vocabulary are held at once."""
SMALLEST_LOG_P = -80.0
"""Below, probabilities would be subnormal numbers, with which a CPU is 20 times slower."""


class Divergence(NamedTuple):
    """KL(clean || edited) of the next token's distribution."""

    kl: float
    """In nats, the mean over all tokens that predict one of their own sentence; 0 where there is none."""
    gradient: Tensor
    """`[T, width]` float32: of `kl`, with respect to the edited activations."""


def kl_gradient(model: "Llama", hook_point: str, x: Tensor, x_hat: Tensor, packed: Packed) -> Divergence:
    """`LanguageModel.kl_gradient` for our own model."""
    packed = packed.to(model.device)
    tail = Tail(model, hook_point, packed)
    for name, values in (("x", x), ("x_hat", x_hat)):
        if values.shape != (packed.n_tokens, tail.width):
            raise ModelError(f"{name} has shape {list(values.shape)}, expected {[packed.n_tokens, tail.width]}")
    rows = (packed.position[1:] > 0).nonzero().squeeze(1)  # the row before a token that is not its sentence's first
    if not len(rows):
        return Divergence(0.0, torch.zeros_like(x_hat, dtype=torch.float32))
    clean, values = tail.forward(x)[-1], tail.forward(x_hat)
    head = model.embed if model.head is None else model.head
    d_final = torch.zeros_like(values[-1])
    kl, d_final[rows] = head_gradient(head, clean[rows], values[-1][rows])
    # of the sum up to here: a mean's gradient would be small, and bfloat16 has few digits for the adding up
    return Divergence(kl / len(rows), tail.backward(values, d_final).float().div_(len(rows)))


class Tail:
    """The chain of functions from a hook point to the last norm of one packed pass.

    Args:
        packed: on the model's device.

    Raises:
        ModelError: the hook point does not exist, or its value is normalised by hooks alone (`L.mlp_out.norm`).
    """

    def __init__(self, model: "Llama", hook_point: str, packed: Packed) -> None:
        point = HookPoint.parse(hook_point, model.config.n_layers).canonical
        if point.norm and point.site not in RESIDUAL:
            raise ModelError(f"{hook_point}: there is no gradient from here; use {point.layer}.{point.site}")
        self.width = point.width(model.config)
        self._model = model
        self._groups = [group.to(model.device) for group in plan(packed.offsets)]
        self._rotation = Rotation(model.config, packed.position, model.dtype)
        self._chain: list[Callable[[Tensor], Tensor]] = []
        first, layers = point.layer + (point.site == "resid_post"), model.config.n_layers
        if (point.norm or point.site not in ("resid_pre", "resid_post")) and first < layers:
            start = f"{first}.resid_pre"
            before = model.activations(packed, [start])[start]
            self._chain.append(partial(self._block, first, before, point))
            first += 1
        self._chain += [partial(self._block, layer) for layer in range(first, layers)]
        if point != HookPoint(layers - 1, "resid_post", norm=True):
            self._chain.append(lambda x: _rms_norm(x, model.norm, model.config.norm_eps))

    @torch.no_grad()
    def forward(self, x: Tensor) -> list[Tensor]:
        """`x [T, width]` at the hook point, and what each function of the chain makes of it, up to the last norm."""
        values = [x.to(self._model.device, self._model.dtype)]
        for function in self._chain:
            values.append(function(values[-1]))
        return values

    def backward(self, values: list[Tensor], gradient: Tensor) -> Tensor:
        """`[T, width]`: the gradient at the hook point.

        Args:
            values: what `forward` returned.
            gradient: `[T, d]` with respect to the last of them.
        """
        for function, value in zip(reversed(self._chain), reversed(values[:-1]), strict=True):
            with torch.enable_grad():
                x = value.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(function(x), x, gradient)
        return gradient

    def _block(self, layer: int, x: Tensor, point: HookPoint | None = None, own: Tensor | None = None) -> Tensor:
        """What a block makes of the residual stream `x [T, d]`, `own [T, width]` standing at `point` inside it."""

        def at(here: HookPoint, value: Tensor) -> Tensor:
            return own if own is not None and here == point else value

        block, eps = cast("Block", self._model.blocks[layer]), self._model.config.norm_eps
        before, middle = HookPoint(layer, "resid_pre").canonical, HookPoint(layer, "resid_mid")
        normed = at(before.normed, _rms_norm(x, block.attn_norm, eps))
        z = at(HookPoint(layer, "z"), self._attention(F.linear(normed, block.qkv)))
        x = at(middle, x + at(HookPoint(layer, "attn_out"), F.linear(z, block.out)))
        normed = at(middle.normed, _rms_norm(x, block.mlp_norm, eps))
        gate, up = F.linear(normed, block.gate_up).chunk(2, dim=-1)
        return x + at(HookPoint(layer, "mlp_out"), F.linear(F.silu(gate) * up, block.down))

    def _attention(self, qkv: Tensor) -> Tensor:
        config = self._model.config
        heads = qkv.unflatten(-1, (-1, config.head_dim))
        turned, values = heads.split([config.n_heads + config.n_kv_heads, config.n_kv_heads], dim=1)
        queries, keys = self._rotation.turned(turned).split([config.n_heads, config.n_kv_heads], dim=1)
        return by_group(self._groups, Heads(queries, keys, values), causal_attention)


class HeadGradient(NamedTuple):
    """What the head says of two ends of a pass."""

    kl: float
    """Summed over the rows."""
    gradient: Tensor
    """`[R, d]` of the sum, with respect to the edited rows."""


@torch.no_grad()
def head_gradient(head: Tensor, clean: Tensor, edited: Tensor) -> HeadGradient:
    """KL(softmax(clean @ head.T) || softmax(edited @ head.T)), whose gradient in the edited logits is q - p.

    Args:
        head: `[vocab, d]`
        clean: `[R, d]` behind the last norm.
        edited: `[R, d]`
    """
    kl, parts = 0.0, []
    for rows, others in zip(clean.split(HEAD_ROWS), edited.split(HEAD_ROWS), strict=True):
        log_p = _log_probabilities(rows, head)
        log_q = _log_probabilities(others, head)
        p = log_p.clamp_min(SMALLEST_LOG_P).exp_()
        kl += torch.linalg.vecdot(p, log_p.sub_(log_q)).sum(dtype=torch.float64).item()
        parts.append(log_q.clamp_min_(SMALLEST_LOG_P).exp_().sub_(p).to(head.dtype) @ head)
    return HeadGradient(kl, torch.cat(parts))


def _log_probabilities(rows: Tensor, head: Tensor) -> Tensor:
    logits = F.linear(rows, head)
    return (logits.float() if logits.dtype.itemsize < 4 else logits).log_softmax(-1)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`llama.rms_norm`, out of place."""
    exact = x.float() if x.dtype.itemsize < 4 else x
    return (exact * (exact.square().mean(-1, keepdim=True) + eps).rsqrt()).to(x.dtype) * weight
