"""A run of the tiny model up to a barely trained SAE, shared by the stages' tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from monosem import capture, recipe
from monosem.corpus import sentences
from monosem.run import Run
from monosem.store import prepare
from monosem.train import loop


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> Path:
    """Sentences, activations in several shards, and an SAE after a few steps."""
    tiny = recipe.load(tiny_recipe)
    train = tiny.train.model_copy(update={"epochs": 0.05, "checkpoint_minutes": 10.0})
    run = Run(tmp_path_factory.mktemp("trained"), tiny.model_copy(update={"train": train}))
    run.save_recipe()
    for stage in (sentences, capture, prepare, loop):
        stage.make(run)
    return run.path


@pytest.fixture
def trained(tmp_path: Path, trained_folder: Path) -> Iterator[Run]:
    """A copy of that run, to make stages in."""
    copy = tmp_path / "run"
    shutil.copytree(trained_folder, copy)
    yield Run.open(copy)
    shutil.rmtree(copy)
