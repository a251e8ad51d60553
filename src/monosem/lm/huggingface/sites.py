"""Where the hook points are in the module tree of a transformers model.

Blocks of four shapes are known, by the names of their modules: Llama, Mistral, Qwen (one norm before, none behind);
Gemma 2 and 3 (a norm before and behind: `attn_out` and `mlp_out` are what the norm behind hands to the residual
stream); GPT-2; GPT-NeoX, where attention and MLP may read the same stream side by side, so that `resid_mid` does not
exist. A value is taken where a module reads or returns it. That all of it is true of a model is tried out in `trial`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from torch import nn

from monosem.errors import ModelError
from monosem.lm.hookpoints import HookPoint


class Layout(NamedTuple):
    """Paths of modules within a block."""

    attn_norm: str
    attn_projection: str
    """Reads `z`."""
    attn_out: str
    """Returns what attention adds to the residual stream."""
    mlp_norm: str
    mlp_out: str


class Site(NamedTuple):
    """A hook point and the module at which its value is found."""

    point: HookPoint
    """Canonical."""
    module: nn.Module
    read: bool
    """The value is what the module reads; else, what it returns."""


class Tree(NamedTuple):
    """The parts of a model that matter here."""

    blocks: list[nn.Module]
    final_norm: nn.Module
    layout: Layout
    parallel: bool
    """Attention and MLP read the same residual stream, so that there is no `resid_mid`."""

    def sites(self) -> Iterator[Site]:
        """All hook points in the order of a pass, but for those between the blocks."""
        for layer, block in enumerate(self.blocks):
            before, middle = HookPoint(layer, "resid_pre").canonical, HookPoint(layer, "resid_mid")
            part = block.get_submodule
            yield Site(before.normed, part(self.layout.attn_norm), read=False)
            yield Site(HookPoint(layer, "z"), part(self.layout.attn_projection), read=True)
            yield Site(HookPoint(layer, "attn_out"), part(self.layout.attn_out), read=False)
            if not self.parallel:
                yield Site(middle, part(self.layout.mlp_norm), read=True)
                yield Site(middle.normed, part(self.layout.mlp_norm), read=False)
            yield Site(HookPoint(layer, "mlp_out"), part(self.layout.mlp_out), read=False)
        yield Site(HookPoint(len(self.blocks) - 1, "resid_post", norm=True), self.final_norm, read=False)


_LAYOUTS = (
    Layout(
        "input_layernorm",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
    Layout("input_layernorm", "self_attn.o_proj", "self_attn", "post_attention_layernorm", "mlp"),
    Layout("input_layernorm", "attention.dense", "attention", "post_attention_layernorm", "mlp"),
    Layout("ln_1", "attn.c_proj", "attn", "ln_2", "mlp"),
)
_FAMILIES = "Llama, Mistral, Qwen 2 and 3, Gemma 1 to 3, GPT-2, GPT-NeoX"


def find(model: nn.Module) -> Tree:
    """Find blocks, norms and projections of an `AutoModelForCausalLM`.

    Raises:
        ModelError: its tree has none of the known shapes; the modules of a block are listed.
    """
    decoder = cast(Any, model).get_decoder()
    blocks = next((getattr(decoder, name) for name in ("layers", "h") if hasattr(decoder, name)), None)
    final = next(
        (getattr(decoder, name) for name in ("norm", "ln_f", "final_layer_norm") if hasattr(decoder, name)), None
    )
    if not isinstance(blocks, nn.ModuleList) or not len(blocks) or final is None:
        raise unknown(model, "no list of blocks and final norm found", decoder)
    there = {name for name, _ in blocks[0].named_modules()}
    layout = next((layout for layout in _LAYOUTS if there.issuperset(layout)), None)
    if layout is None:
        raise unknown(model, "the hook points are not found in its blocks", blocks[0])
    return Tree(list(blocks), final, layout, bool(getattr(blocks[0], "use_parallel_residual", False)))


def unknown(model: nn.Module, reason: str, within: nn.Module) -> ModelError:
    """The error for a model of another shape, with the modules of the part in question."""
    modules = ", ".join(name for name, _ in within.named_modules() if name)
    return ModelError(
        f"{type(model).__name__}: {reason}; known are the families {_FAMILIES}; "
        f"{type(within).__name__} holds: {modules or 'no modules'}"
    )
