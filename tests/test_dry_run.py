"""Rehearsals: every recipe of the house through every stage, around a random model that is narrow here."""

import json
from pathlib import Path

import pytest
import torch

from monosem import dry_run, pipeline, recipe
from monosem.errors import ModelError
from monosem.lm import shape
from monosem.lm.config import ModelConfig
from monosem.lm.packed import Packed
from monosem.lm.source import load_model
from monosem.recipe import Recipe
from monosem.run import Run

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 40,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


@pytest.fixture
def narrow(tmp_path: Path) -> str:
    """A model of which nothing but its shape is there."""
    folder = tmp_path / "narrow"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return str(folder)


def around(path: Path, model: str) -> Recipe:
    """The recipe at `path` with another model."""
    loaded = recipe.load(path)
    return loaded.model_copy(update={"model": loaded.model.model_copy(update={"source": model})})


@pytest.mark.model
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_rehearsed_to_its_end(path: Path, narrow: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = around(path, narrow)
    small = dry_run.rehearse(whole, tmp_path)
    for section, key in (("sae", "sparsity"), ("sae", "normalisation"), ("capture", "dtype"), ("train", "auxk_gate")):
        assert getattr(getattr(small, section), key) == getattr(getattr(whole, section), key)
    run = Run(tmp_path / small.name, small)
    made = pipeline.make(run)
    assert all(stage.complete for stage in made.values())
    assert made["sentences"].manifest.counts["sentences"] == dry_run.SENTENCES
    assert (run.path / "report.html").exists()


@pytest.mark.model
def test_the_model_of_a_rehearsal_is_read_like_any_other(narrow: str, tmp_path: Path) -> None:
    wanted = Recipe.model_validate({"model": {"source": narrow}, "capture": {"hook_points": ["30.z"]}})
    small = dry_run.rehearse(wanted, tmp_path)
    assert small.capture.hook_points == ("1.z",)
    model = load_model(small.model.source)
    assert (model.config.d_model, model.config.n_layers) == (64, dry_run.LAYERS)
    ids = model.tokenizer.encode("A sentence, read.")
    assert model.tokenizer.decode(ids) == "A sentence, read."
    assert model.logits(Packed.pack([ids])).isfinite().all()
    first = {file.name: file.read_bytes() for file in Path(small.model.source).iterdir()}
    dry_run.rehearse(wanted, tmp_path)
    assert first == {file.name: file.read_bytes() for file in Path(small.model.source).iterdir()}


@pytest.mark.parametrize(("k", "start"), [(64, 128), (64, 4096), (600, 700)])
def test_k_still_falls_where_there_is_room(k: int, start: int, narrow: str) -> None:
    wanted = Recipe.model_validate(
        {"model": {"source": narrow}, "sae": {"k": k}, "train": {"k_anneal_start": start, "k_anneal_fraction": 0.5}}
    )
    small = dry_run.shrink(wanted, narrow)
    expected = min(start, dry_run.LATENTS) if k < dry_run.LATENTS else None
    assert (small.train.k_anneal_start, small.train.k_anneal_fraction) == (expected, 0.5)


def test_a_hook_point_beyond_the_model_is_named(narrow: str, tmp_path: Path) -> None:
    wanted = Recipe.model_validate({"model": {"source": narrow}, "capture": {"hook_points": ["40.z"]}})
    with pytest.raises(ModelError, match="the model has layers 0 to 39"):
        dry_run.rehearse(wanted, tmp_path)


def test_shapes_are_read_from_files_of_every_kind(narrow: str, tmp_path: Path) -> None:
    expected = ModelConfig(64, 40, 4, 2, 96, 1000, 2048, head_dim=16, tied=True)
    assert shape.describe(narrow).config == expected
    seeing = tmp_path / "seeing"
    seeing.mkdir()
    (seeing / "config.json").write_text(json.dumps({"text_config": CONFIG, "vision_config": {}}))
    assert shape.read_shape(seeing) == expected
    (tmp_path / "config.json").write_text(
        json.dumps({"n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 128, "vocab_size": 264})
    )
    assert shape.read_shape(tmp_path / "config.json") == ModelConfig(48, 3, 6, 6, 192, 264, 128, head_dim=8)
    with pytest.raises(ModelError, match=r"no config\.json or params\.json"):
        shape.read_shape(tmp_path / "nothing")
    (tmp_path / "params.json").write_text(json.dumps({"dim": 48}))
    with pytest.raises(ModelError, match="does not say n_layers, n_heads"):
        shape.read_shape(tmp_path / "params.json")
    assert shape.describe("hf:meta-llama/Llama-3.2-3B").config.d_model == 3072
