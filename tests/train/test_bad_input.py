"""Training on what it cannot use: values that are not finite, checkpoints of another SAE."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from monosem import pipeline, recipe
from monosem.atomic import sha256
from monosem.errors import TrainingError
from monosem.recipe import Recipe
from monosem.run import Manifest, Run
from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.train import checkpoint
from monosem.train.checkpoint import Progress


@pytest.fixture(scope="module")
def prepared(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with batches, and no SAE."""
    path = tmp_path_factory.mktemp("prepared") / "tiny"
    pipeline.make(Run(path, recipe.load(tiny_recipe)), ("sentences", "capture", "prepare"))
    return path


@pytest.fixture
def path(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "tiny")
    return tmp_path / "tiny"


def with_checkpoints(tiny_recipe: Path) -> Recipe:
    """The recipe, with a checkpoint after nearly every step."""
    loaded = recipe.load(tiny_recipe)
    return loaded.model_copy(update={"train": loaded.train.model_copy(update={"checkpoint_minutes": 1e-6})})


def test_a_value_that_is_not_finite_ends_training_and_is_placed(tiny_recipe: Path, path: Path) -> None:
    wanted = with_checkpoints(tiny_recipe)
    shard = sorted((path / "batches" / "1.resid_post").glob("train-*.safetensors"))[-1]
    tensors = load_file(shard)
    tensors["activations"][len(tensors["activations"]) // 2, 3] = float("nan")
    save_file(tensors, shard, metadata={"format": "pt"})
    told = shard.parent / "manifest.json"  # as a store would have it that was made so
    manifest = Manifest.model_validate_json(told.read_text())
    new = {"bytes": shard.stat().st_size, "sha256": sha256(shard)}
    shards = [one.model_copy(update=new) if one.name == shard.name else one for one in manifest.shards]
    told.write_text(manifest.model_copy(update={"shards": shards}).model_dump_json())
    message = r"step \d+: the loss is nan.* \(batch at epoch 0, shard \d+, row \d+; the last good checkpoint is kept\)"
    with pytest.raises(TrainingError, match=message) as failed:
        pipeline.make(Run(path, wanted), ("train",))
    kept = checkpoint.latest(path / "sae")
    assert kept is not None
    assert f"step {kept.progress.step}:" in str(failed.value)  # the one before was saved
    assert all(bool(weight.isfinite().all()) for weight in kept.sae.parameters())
    with pytest.raises(TrainingError, match=message):  # and going on meets it again
        pipeline.make(Run(path, wanted), ("train",))


@pytest.mark.parametrize(("changed", "named"), [({"n": 32}, "n = 32"), ({"k": 2}, "k = 2")])
def test_a_checkpoint_of_another_sae_is_refused(
    tiny_recipe: Path, path: Path, changed: dict[str, int], named: str
) -> None:
    config = replace(SaeConfig(d=32, n=64, k=4, normalisation="none"), **changed)
    other = Autoencoder(config, torch.Generator().manual_seed(0))
    checkpoint.save(path / "sae", other, Progress(step=1), {"steps": 1}, {})
    with pytest.raises(TrainingError, match=f"sae: its checkpoint is of an SAE with {named}, the recipe says sae"):
        pipeline.make(Run(path, recipe.load(tiny_recipe)), ("train",))
