"""Hook points: the names of the places where a language model can be read or edited.

`{layer}.{resid_pre|resid_mid|resid_post|attn_out|mlp_out|z}`, with `.norm` after it for the RMS-normalised value.
Layers count from 0, as in checkpoint names: `20.resid_post` is what block 20 leaves, transformers' `hidden_states[21]`.
Knows names only; `hooks.py` reads and edits.
"""

import difflib
from typing import NamedTuple

from monosem.errors import ModelError
from monosem.lm.config import ModelConfig

SITES = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""In the order in which a block passes them."""

RESIDUAL = ("resid_pre", "resid_mid", "resid_post")


class HookPoint(NamedTuple):
    """One place in the model."""

    layer: int
    site: str
    norm: bool = False
    """Of a residual point: the value as the next module's norm, with its weights, hands it over.
    Of the others: divided by its root mean square."""

    def __str__(self) -> str:
        return f"{self.layer}.{self.site}" + (".norm" if self.norm else "")

    @classmethod
    def parse(cls, text: str, n_layers: int | None = None) -> "HookPoint":
        """Read a name such as `20.resid_post`; with `n_layers` the layer is checked as well.

        Raises ModelError with the range of layers, or the nearest name.
        """
        layer, _, place = text.partition(".")
        site, _, suffix = place.partition(".")
        if not layer.isdecimal() or not place:
            raise ModelError(f"hook point {text!r} is not of the form LAYER.NAME, for example 20.resid_post")
        if n_layers is not None and int(layer) >= n_layers:
            raise ModelError(f"hook point {text!r}: the model has layers 0 to {n_layers - 1}")
        if site not in SITES or suffix not in ("", "norm"):
            raise ModelError(f"hook point {text!r} does not exist; did you mean {int(layer)}.{_nearest(place)}?")
        return cls(int(layer), site, suffix == "norm")

    @property
    def residual(self) -> bool:
        """Whether the point lies on the residual stream (its `.norm` does not)."""
        return self.site in RESIDUAL and not self.norm

    @property
    def normed(self) -> "HookPoint":
        """The point with `.norm`."""
        return HookPoint(self.layer, self.site, norm=True)

    @property
    def canonical(self) -> "HookPoint":
        """The one name of a place that has two: `L.resid_pre` is `(L - 1).resid_post`."""
        if self.site == "resid_pre" and self.layer > 0:
            return HookPoint(self.layer - 1, "resid_post", self.norm)
        return self

    def before(self, other: "HookPoint") -> bool:
        """Whether a pass comes here first."""

        def order(point: HookPoint) -> tuple[int, int, bool]:
            return point.layer, SITES.index(point.site), point.norm

        return order(self.canonical) < order(other.canonical)

    def width(self, config: ModelConfig) -> int:
        """Width of the activations here."""
        return config.z_width if self.site == "z" else config.d_model


def require_before(source: str, target: str) -> None:
    """Raise ModelError unless a pass comes to `source` before it comes to `target`."""
    if not HookPoint.parse(source).before(HookPoint.parse(target)):
        raise ModelError(f"{target} comes before {source} in a pass, so it cannot be made of it; exchange the two")


def _nearest(place: str) -> str:
    known = [site + suffix for site in SITES for suffix in ("", ".norm")]
    return difflib.get_close_matches(place, known, n=1, cutoff=0.0)[0]
