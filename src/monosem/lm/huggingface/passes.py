"""One pass through a transformers model: what it meets at the hook points, where it begins and ends.

`instrument` puts lasting callbacks on the modules, once; each looks up the pass that runs in its own context and hands
the value over, so no pass adds or removes anything, whatever happens in it, and threads do not meet. Values are edited
in place: the block goes on with the very tensor. A pass that has what it wants ends by `Finished`, from the module it
is in; one that begins behind a layer finds the layers before switched off.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from monosem.lm.hookpoints import HookPoint
from monosem.lm.hooks import Watcher
from monosem.lm.huggingface.sites import Tree


class Finished(Exception):
    """Carries a pass out of the model once it has seen all that was asked for."""


class Pass:
    """What happens on the way through the blocks.

    Args:
        watcher: sees the value at every hook point from the first block on.
        first: the layer the pass begins with; the number of layers: the final norm.
        start: `[T, d]`, the residual stream that it begins with. None: what the embedding gives.
    """

    def __init__(self, watcher: Watcher, first: int = 0, start: Tensor | None = None):
        self.watcher, self.first, self._start = watcher, first, start

    def enter(self, layer: int, x: Tensor) -> None:
        """The pass comes to a layer with the residual stream `x [1, T, d]`."""
        if layer == self.first:
            if self._start is not None:
                x[0] = self._start
            self.meet(HookPoint(layer, "resid_pre").canonical, x)

    def meet(self, point: HookPoint, x: Tensor) -> None:
        """The pass comes to a hook point with `x [1, T, width]`."""
        self.watcher.visit(point, x[0])
        if self.watcher.done:
            raise Finished


RUNNING: ContextVar[Pass | None] = ContextVar("the pass that runs", default=None)


def instrument(tree: Tree) -> None:
    """Let the modules tell the pass that runs what it meets. Without one they do what they always did."""
    for layer, block in enumerate(tree.blocks):
        block.forward = _passing(layer, block.forward)
    tree.final_norm.register_forward_pre_hook(_arriving(len(tree.blocks)))
    for point, module, read in tree.sites():
        if read:
            module.register_forward_pre_hook(_reading(point))
        else:
            module.register_forward_hook(_returning(point))


def _passing(layer: int, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The block's forward pass with both ends told; in a pass that begins behind the block it does nothing."""

    def pass_through(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        running = RUNNING.get()
        if running is None:
            return forward(hidden_states, *args, **kwargs)
        if layer < running.first:
            return hidden_states
        running.enter(layer, hidden_states)
        out = forward(hidden_states, *args, **kwargs)
        running.meet(HookPoint(layer, "resid_post"), out)
        return out

    return pass_through


def _arriving(layer: int) -> Callable[..., None]:
    def tell(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if (running := RUNNING.get()) is not None:
            running.enter(layer, args[0])

    return tell


def _reading(point: HookPoint) -> Callable[..., None]:
    def tell(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if (running := RUNNING.get()) is not None:
            running.meet(point, args[0])

    return tell


def _returning(point: HookPoint) -> Callable[..., None]:
    def tell(_module: nn.Module, _args: tuple[Any, ...], out: Tensor | tuple[Tensor, Any]) -> None:
        if (running := RUNNING.get()) is not None:
            running.meet(point, out if isinstance(out, Tensor) else out[0])

    return tell
