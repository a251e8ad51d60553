"""`evaluation.json` out of its parts: one flat object of figures, with the baselines and the all-token figures inside.

Pure arithmetic on what the parts measured; docs/definitions.md states every key.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monosem.evaluate.downstream import recovered

DENSE = 0.1  # a latent that fires on more than this share of the activations is dense
HISTOGRAM_EDGES = [-7 + step / 4 for step in range(29)]  # log10 of density

Json = dict[str, Any]


def assemble(
    reconstruction: Json, downstream: Json, steering: Json, density: NDArray[np.floating], window: int
) -> Json:
    """The whole object.

    Args:
        reconstruction, downstream, steering: the stage's parts, as `stage` writes them.
        density: [n] share of the store's activations on which each latent fires.
        window: number of those activations.
    """
    default = downstream["default"]
    everywhere = downstream["all_tokens"]
    clean = downstream["ce_clean"]
    found = {
        **{key: value for key, value in reconstruction["sae"].items() if key != "rows"},
        "n_rows": reconstruction["sae"]["rows"],
        **_losses(default, clean),
        "dead_fraction": float((density == 0).mean()),
        "dead_window_tokens": window,
        "dense_fraction": float((density > DENSE).mean()),
        "density_histogram": _histogram(density),
        **{key: downstream[key] for key in ("n_tokens", "n_sentences", "n_predictions", "n_edited")},
        "all_tokens": {
            **{key: value for key, value in downstream["figures"].items() if key != "rows"},
            **_losses(everywhere, clean),
            "n_tokens": downstream["n_tokens"],
        },
        "baselines": {
            name: {
                **{key: value for key, value in reconstruction[name].items() if key != "rows"},
                **_of_method(default, name, clean),
            }
            for name in reconstruction
            if name != "sae"
        },
        "steering": steering,
    }
    return _finite(found)


def _losses(by_method: Json, clean: float) -> Json:
    """The flat keys of one scope: every loss by name, and what the SAE recovers."""
    named = {f"{loss}_{name}": by_method[name][loss] for loss in ("ce", "kl") for name in ("sae", "zero", "mean")}
    sae = _of_method(by_method, "sae", clean)
    return {"ce_clean": clean, **named, **{key: value for key, value in sae.items() if "recovered" in key}}


def _of_method(by_method: Json, name: str, clean: float) -> Json:
    """One method's losses, and what it recovers of each ablation's damage."""
    own = by_method[name]
    found = {"ce": own["ce"], "kl": own["kl"]}
    for loss, best in (("ce", clean), ("kl", 0.0)):
        for ablation in ("zero", "mean"):
            found[f"{loss}_recovered_{ablation}"] = recovered(own[loss], by_method[ablation][loss], best)
    return found


def _histogram(density: NDArray[np.floating]) -> Json:
    """How many live latents there are in each class of density; those outside count in the first or last class."""
    live = np.log10(density[density > 0]).clip(HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1])
    return {"log10_edges": HISTOGRAM_EDGES, "counts": np.histogram(live, HISTOGRAM_EDGES)[0].tolist()}


def _finite(value: Any) -> Any:
    """JSON knows no NaN: a figure that is not defined is null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
