"""What others call the places and models that we know: TransformerLens' hook names, module names, hub names.

Strings to strings; a name that has no counterpart becomes "". Whether a place exists is for a language model to say.
"""

import re

HOOKS = {
    "resid_pre": "hook_resid_pre",
    "z": "attn.hook_z",
    "attn_out": "hook_attn_out",
    "resid_mid": "hook_resid_mid",
    "mlp_out": "hook_mlp_out",
    "resid_post": "hook_resid_post",
}
"""Our sites as TransformerLens calls them. It has no name for the normalised values of ours that end in `.norm`: its
`hook_normalized` is the value before the norm's weights."""
SUBMODULES = {"resid_post": "resid_post", "mlp_out": "mlp_out", "attn_out": "attention_out"}
"""As dictionary_learning's training scripts call them."""
MODELS = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct", "gemma3-270m": "google/gemma-3-270m"}


def transformer_lens(hook_point: str) -> str:
    """`20.resid_post` as `blocks.20.hook_resid_post`."""
    layer, _, site = hook_point.partition(".")
    return f"blocks.{layer}.{HOOKS[site]}" if site in HOOKS else ""


def from_transformer_lens(hook: str | None) -> str:
    """`blocks.20.hook_resid_post` as `20.resid_post`."""
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook or "")
    sites = {theirs: ours for ours, theirs in HOOKS.items()}
    return f"{found[1]}.{sites[found[2]]}" if found and found[2] in sites else ""


def submodule(hook_point: str) -> str:
    """`20.resid_post` as `resid_post_layer_20`."""
    layer, _, site = hook_point.partition(".")
    return f"{SUBMODULES[site]}_layer_{layer}" if site in SUBMODULES else ""


def from_submodule(name: str | None) -> str:
    """`resid_post_layer_20` as `20.resid_post`."""
    found = re.fullmatch(r"(\w+)_layer_(\d+)", name or "")
    sites = {theirs: ours for ours, theirs in SUBMODULES.items()}
    return f"{found[2]}.{sites[found[1]]}" if found and found[1] in sites else ""


def module(hook_point: str) -> str:
    """`20.resid_post` as `layers.20`, the module that puts it out, which names sparsify's folders."""
    layer, _, site = hook_point.partition(".")
    suffix = {"resid_post": "", "mlp_out": ".mlp", "attn_out": ".self_attn"}.get(site)
    return "" if suffix is None else f"layers.{layer}{suffix}"


def from_module(name: str) -> str:
    """`layers.20.mlp` as `20.mlp_out`; GPT-2's `h.20` as well."""
    found = re.fullmatch(r"(?:model\.|transformer\.|gpt_neox\.)?(?:layers|h)\.(\d+)(\.\w+)?", name)
    sites = {None: "resid_post", ".mlp": "mlp_out", ".self_attn": "attn_out", ".attn": "attn_out"}
    return f"{found[1]}.{sites[found[2]]}" if found and found[2] in sites else ""


def hub(model: str) -> str:
    """A model of ours by its name on the hub."""
    return MODELS.get(model, model.removeprefix("hf:"))


def from_hub(name: str | None) -> str:
    """A name on the hub as a recipe says it."""
    ours = {theirs: model for model, theirs in MODELS.items()}
    name = name or ""
    return ours.get(name, f"hf:{name}" if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else name)
