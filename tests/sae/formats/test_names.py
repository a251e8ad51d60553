"""Names of places and models, there and back."""

import pytest

from monosem.sae.formats import names


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z"])
def test_hook_points_there_and_back(site: str) -> None:
    theirs = names.transformer_lens(f"20.{site}")
    assert theirs.startswith("blocks.20.")
    assert names.from_transformer_lens(theirs) == f"20.{site}"


@pytest.mark.parametrize("name", ["20.resid_mid.norm", "", "20"])
def test_places_that_nobody_else_has(name: str) -> None:
    assert names.transformer_lens(name) == names.submodule(name) == ""


@pytest.mark.parametrize("name", ["hook_embed", "blocks.3.ln2.hook_normalized", "blocks.x.hook_z", None, ""])
def test_places_that_we_do_not_have(name: str | None) -> None:
    assert names.from_transformer_lens(name) == names.from_submodule(name) == names.from_module(name or "") == ""


@pytest.mark.parametrize(
    ("module", "ours"),
    [("layers.20", "20.resid_post"), ("h.3", "3.resid_post"), ("model.layers.4.mlp", "4.mlp_out"),
     ("layers.5.self_attn", "5.attn_out"), ("layers.5.mlp.act", "")],
)  # fmt: skip
def test_modules(module: str, ours: str) -> None:
    assert names.from_module(module) == ours


def test_submodules_and_models_there_and_back() -> None:
    assert names.submodule("7.attn_out") == "attention_out_layer_7"
    assert names.from_submodule("attention_out_layer_7") == "7.attn_out"
    for ours in ("smollm2-135m-instruct", "gemma3-270m", "hf:meta-llama/Llama-3.2-1B", "gpt2-small", ""):
        assert names.from_hub(names.hub(ours)) == ours
    assert names.hub("smollm2-135m-instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert names.from_hub(None) == ""
