"""Checkpoints: whole or not at all, an SAE in themselves, the newest stays."""

from pathlib import Path

import pytest
import torch

from monosem.errors import TrainingError
from monosem.sae import files
from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.train import checkpoint
from monosem.train.checkpoint import Progress


def an_sae() -> Autoencoder:
    return Autoencoder(SaeConfig(d=6, n=12, k=3, normalisation="none"), torch.Generator().manual_seed(0))


def test_what_is_saved_comes_back_and_loads_as_an_sae(tmp_path: Path) -> None:
    sae, progress = an_sae(), Progress(step=7, epoch=1, shard=2, row=3, best_fvu=0.25, stale=1)
    step = {"steps": 7, "silent_for": torch.arange(12), "W_enc": sae.W_enc, "W_enc.first": torch.ones(12, 6)}
    path = checkpoint.save(tmp_path, sae, progress, step, {"span": torch.arange(3)})
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.progress == progress
    assert torch.equal(found.step["silent_for"], torch.arange(12))
    assert torch.equal(found.step["W_enc"], sae.W_enc)
    assert torch.equal(found.step["W_enc.first"], torch.ones(12, 6))
    assert int(found.step["steps"]) == 7
    assert torch.equal(found.tracker["span"], torch.arange(3))
    assert torch.equal(files.load(path).W_dec, sae.W_dec)


def test_only_the_newest_checkpoint_stays(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        checkpoint.save(tmp_path, an_sae(), Progress(step=step), {"steps": step}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]
    checkpoint.remove(tmp_path)
    assert checkpoint.latest(tmp_path) is None


@pytest.mark.parametrize("name", ["trainer.json", "trainer.safetensors", "sae.safetensors"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    path = checkpoint.save(tmp_path, an_sae(), Progress(step=1), {"steps": 1}, {})
    (path / name).write_bytes((path / name).read_bytes()[:-20])
    with pytest.raises(TrainingError, match="step-00000001: damaged checkpoint"):
        checkpoint.latest(tmp_path)
