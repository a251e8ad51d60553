"""monosem finds the concepts inside a language model with sparse autoencoders.

    model = monosem.load_model("smollm2-135m-instruct")
    sae = monosem.load_sae("runs/demo")
    with monosem.steer(model, sae, {123: 40.0}):
        print(monosem.complete(model, "I think that"))

The names load what they need when they are first used, so that `import monosem` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from monosem.errors import MonosemError
    from monosem.lm.layers import replace_activations, store_activations
    from monosem.lm.packed import Packed
    from monosem.lm.source import complete, load_model
    from monosem.steering import Edit, Steering, load_sae, steer

_HOMES = {
    "MonosemError": "monosem.errors",
    "Packed": "monosem.lm.packed",
    "complete": "monosem.lm.source",
    "load_model": "monosem.lm.source",
    "replace_activations": "monosem.lm.layers",
    "store_activations": "monosem.lm.layers",
    "Edit": "monosem.steering",
    "Steering": "monosem.steering",
    "load_sae": "monosem.steering",
    "steer": "monosem.steering",
}
__all__ = [
    "Edit",
    "MonosemError",
    "Packed",
    "Steering",
    "complete",
    "load_model",
    "load_sae",
    "replace_activations",
    "steer",
    "store_activations",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'monosem' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
