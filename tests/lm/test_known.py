"""The shapes of known models against the sizes that their makers publish, and against a model of ours."""

import pytest
import torch
from random_model import random_llama

from monosem import assets
from monosem.lm.checkpoint import load_model
from monosem.lm.hookpoints import HookPoint
from monosem.lm.known import KNOWN_MODELS, KnownModel, is_here

PUBLISHED = {
    "smollm2-135m-instruct": 134_515_008,
    "gemma3-270m": 268_098_176,
    "hf:meta-llama/Llama-3.2-1B": 1_235_814_400,
    "hf:meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "hf:meta-llama/Llama-3.1-8B": 8_030_261_248,
    "hf:meta-llama/Llama-3.1-70B": 70_553_706_496,
}
BY_SOURCE = {model.source: model for model in KNOWN_MODELS}


@pytest.mark.parametrize(("source", "parameters"), PUBLISHED.items())
def test_parameters_are_the_published_ones(source, parameters):
    assert BY_SOURCE[source].parameters == parameters


def test_figures_are_those_of_a_model_in_memory():
    model = random_llama()
    known = KnownModel("small", "llama", model.config)
    assert known.parameters == sum(weight.numel() for weight in model.parameters())
    assert known.weight_bytes("float32") == sum(weight.nbytes for weight in model.parameters())
    cache = model.decoder(rows=1, capacity=10)._cache
    assert known.cache_bytes("float32") * 10 == cache.keys.nbytes + cache.values.nbytes


def test_hook_points_are_the_references_choice_at_five_sixths():
    assert BY_SOURCE["hf:meta-llama/Llama-3.2-3B"].hook_point == "22.resid_post"
    for model in KNOWN_MODELS:
        assert 0.75 < (HookPoint.parse(model.hook_point, model.config.n_layers).layer + 1) / model.config.n_layers < 0.9


def test_names_are_unique_and_what_is_not_here_is_said_so(monkeypatch, tmp_path):
    assert len(BY_SOURCE) == len(KNOWN_MODELS)
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path))
    assert not any(is_here(source) for source in BY_SOURCE if not source.startswith("hf:"))
    assert not is_here("hf:nobody/nothing")


@pytest.mark.model
def test_the_embedded_model_has_the_shape_that_is_told(embedded_model_path):
    model, known = load_model(embedded_model_path, device="cpu"), BY_SOURCE["smollm2-135m-instruct"]
    for name in (
        "d_model",
        "n_layers",
        "n_heads",
        "n_kv_heads",
        "d_ff",
        "vocab_size",
        "context_length",
        "head_dim",
        "tied",
    ):
        assert getattr(model.config, name) == getattr(known.config, name), name
    assert sum(weight.numel() for weight in model.parameters()) == known.parameters
    assert is_here(known.source)
    assert known.source in assets.KNOWN
    assert model.dtype == torch.float32
