"""Two short ways to whole layers: keep what they leave, or put something else in its place.

Thin sugar over `model.hooks` for the residual stream behind a layer, `L.resid_post`; every other place has its hook
point. Both hold for all passes begun inside the `with`, generation with its cache included.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from monosem.lm.hookpoints import HookPoint
from monosem.lm.protocol import LanguageModel


@contextlib.contextmanager
def store_activations(model: LanguageModel, layers: Iterable[int]) -> Iterator[dict[int, list[Tensor]]]:
    """Keep what these layers leave.

    Yields:
        For each layer a list that grows by one `[T, d]` a pass: a generation's first pass reads the prompts, packed;
        every further one a token of each row.

    Raises:
        ModelError: there is no such layer.
    """
    stored: dict[int, list[Tensor]] = {layer: [] for layer in layers}

    def keep(layer: int) -> Callable[[Tensor], None]:
        return lambda x: stored[layer].append(x)  # a hook owns what it is handed

    with model.hooks({_behind(layer): keep(layer) for layer in stored}):
        yield stored


@contextlib.contextmanager
def replace_activations(model: LanguageModel, layer: int, fn: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let the model go on from `fn(x)` where the layer leaves `x [T, d]`; an SAE's `lambda x: sae(x).x_hat`, say.

    Raises:
        ModelError: there is no such layer; in a pass, `fn` returned another shape.
    """
    with model.hooks({_behind(layer): fn}):
        yield


def _behind(layer: int) -> str:
    return str(HookPoint(layer, "resid_post"))
