"""What happens at the hook points of one pass: values are captured, looked at and edited.

The model visits its hook points in order and goes on with whatever `Watcher.visit` hands back. Hooks and captures own
what they get: the model works in place afterwards. Knows nothing of how the values come about.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from monosem.errors import ModelError
from monosem.lm.hookpoints import RESIDUAL, HookPoint

Hook = Callable[[Tensor], Tensor | None]
"""`fn(x [T, width])`: returns what the model goes on with, or None when it only looked."""

Hooks = Mapping[HookPoint, Sequence[Hook]]


def stack(outer: Hooks, inner: Mapping[HookPoint, Hook]) -> Hooks:
    """Add `inner` behind the hooks that are there already; at one point they run in this order."""
    stacked = {point: list(hooks) for point, hooks in outer.items()}
    for point, hook in inner.items():
        stacked.setdefault(point.canonical, []).append(hook)
    return stacked


class Watcher:
    """Runs the hooks of one pass and keeps the activations that were asked for."""

    def __init__(self, hooks: Hooks, wanted: Iterable[HookPoint] = (), norm_eps: float = 0.0):
        self._hooks = hooks
        self._waiting = {point.canonical for point in wanted}
        self._stops = bool(self._waiting)
        self._eps = norm_eps
        self.captured: dict[HookPoint, Tensor] = {}
        """By canonical hook point, as the hooks left them."""

    @property
    def done(self) -> bool:
        """Whether the pass may end: something was asked for and all of it is there."""
        return self._stops and not self._waiting

    def visit(self, point: HookPoint, x: Tensor) -> Tensor:
        """Hand over `x [T, width]` at a canonical point; the model goes on with the result."""
        x = self._at(point, x)
        normed = point.normed
        if point.site not in RESIDUAL and (normed in self._hooks or normed in self._waiting):
            scale = torch.sqrt(x.float().square().mean(-1, keepdim=True) + self._eps)
            before = (x / scale).to(x.dtype)
            # The edit's difference is added, so that an edit that changes nothing changes no bit.
            x += ((self._at(normed, before.clone()) - before) * scale).to(x.dtype)
        return x

    def _at(self, point: HookPoint, x: Tensor) -> Tensor:
        for hook in self._hooks.get(point, ()):
            edited = hook(x.clone())
            if edited is None:
                continue
            if edited.shape != x.shape:
                raise ModelError(f"the hook at {point} returned shape {list(edited.shape)}, expected {list(x.shape)}")
            x.copy_(edited)
        if point in self._waiting:
            self._waiting.remove(point)
            self.captured[point] = x.clone()
        return x
