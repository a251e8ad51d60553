"""A few tokens sent through a new model: are the hook points where its module tree says they are?

Names prove nothing: a model with the modules of a Llama may scale what it adds to the residual stream, or attend in a
way of its own. So the values themselves are compared.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from monosem.lm.attention import Heads
from monosem.lm.config import ModelConfig
from monosem.lm.hookpoints import HookPoint
from monosem.lm.huggingface.attention import Attention, Rule
from monosem.lm.huggingface.sites import Tree, unknown
from monosem.lm.packed import Packed

TOLERANCE = 0.02  # of the largest value that is added, besides what rounding explains


class Counted:
    """Attention that notes which layers came to it."""

    def __init__(self, attention: Attention):
        self._attention = attention
        self.layers: list[int] = []

    def __call__(self, layer: int, heads: Heads, rule: Rule) -> Tensor:
        self.layers.append(layer)
        return self._attention(layer, heads, rule)


def sentences(config: ModelConfig, device: torch.device) -> Packed:
    """Two short ones of any tokens."""
    return Packed.pack([[token % config.vocab_size for token in ids] for ids in ((3, 5, 7), (11, 13))], device)


def points(tree: Tree) -> list[HookPoint]:
    """All hook points without `.norm`, in the order of a pass."""
    inside = [site.point for site in tree.sites() if not site.point.norm]
    between = [HookPoint(layer, "resid_post") for layer in range(len(tree.blocks))]
    both = sorted([*inside, *between], key=lambda point: point.layer)  # stable: a block's last point is its output
    return [HookPoint(0, "resid_pre"), *both]


def check(
    model: nn.Module, tree: Tree, config: ModelConfig, seen: Mapping[HookPoint, Tensor], attention: Counted
) -> None:
    """Compare what came by with what should.

    Args:
        seen: the values at `points(tree)`, as the pass met them.

    Raises:
        ModelError: a hook point is not met, not in order, or has another width; the residual stream is not the sum of
            its parts; or a layer does not attend by the function that transformers lets be chosen.
    """
    if attention.layers != list(range(len(tree.blocks))):
        raise unknown(model, f"attention is chosen in layers {attention.layers}, expected in every one", tree.blocks[0])
    if list(seen) != points(tree):
        missing = next((str(point) for point in points(tree) if point not in seen), "none")
        raise unknown(model, f"hook points come in another order (missing: {missing})", tree.blocks[0])
    for point, x in seen.items():
        if x.shape[1] != point.width(config):
            raise unknown(model, f"{point} has width {x.shape[1]}, not {point.width(config)}", tree.blocks[0])
    for layer in range(len(tree.blocks)):
        _check_sums(model, tree, layer, seen)


def _check_sums(model: nn.Module, tree: Tree, layer: int, seen: Mapping[HookPoint, Tensor]) -> None:
    def at(site: str) -> Tensor:
        return seen[HookPoint(layer, site).canonical]

    sums = [("resid_post", ("resid_pre", "attn_out", "mlp_out"))]
    if not tree.parallel:
        sums = [("resid_mid", ("resid_pre", "attn_out")), ("resid_post", ("resid_mid", "mlp_out"))]
    for whole, parts in sums:
        found, added = at(whole), [at(part).float() for part in parts]
        error = (torch.stack(added).sum(0) - found).abs().max()
        rounding = len(parts) * torch.finfo(found.dtype).eps * found.abs().max()
        if not error <= TOLERANCE * max(float(part.abs().max()) for part in added[1:]) + rounding:
            raise unknown(model, f"{layer}.{whole} is not the sum of {', '.join(parts)}", tree.blocks[0])
