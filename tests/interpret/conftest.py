"""A run of the tiny model up to a barely trained SAE, shared by the stages' tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from asked_run import OPEN
from batch_server import KEY, BatchServer

from monosem import capture, recipe, training
from monosem.corpus import sentences
from monosem.interpret import examples
from monosem.run import Run
from monosem.store import prepare


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> Path:
    """Sentences, activations in several shards, and an SAE after a few steps."""
    tiny = recipe.load(tiny_recipe)
    train = tiny.train.model_copy(update={"epochs": 0.05, "checkpoint_minutes": 10.0})
    run = Run(tmp_path_factory.mktemp("trained"), tiny.model_copy(update={"train": train}))
    run.save_recipe()
    for stage in (sentences, capture, prepare, training):
        stage.make(run)
    return run.path


@pytest.fixture
def trained(tmp_path: Path, trained_folder: Path) -> Iterator[Run]:
    """A copy of that run, to make stages in."""
    copy = tmp_path / "run"
    shutil.copytree(trained_folder, copy)
    yield Run.open(copy)
    shutil.rmtree(copy)


@pytest.fixture(scope="session")
def made_folder(tmp_path_factory: pytest.TempPathFactory, trained_folder: Path) -> Path:
    """That run with examples, for runs that share its stages."""
    copy = tmp_path_factory.mktemp("made") / "run"
    shutil.copytree(trained_folder, copy)
    examples.make(Run.open(copy))
    return copy


@pytest.fixture
def made(tmp_path: Path, made_folder: Path) -> Iterator[Run]:
    """A copy of the run with examples, to make later stages in."""
    copy = tmp_path / "run"
    shutil.copytree(made_folder, copy)
    yield Run.open(copy)
    shutil.rmtree(copy)


@pytest.fixture(scope="session")
def one_server() -> Iterator[BatchServer]:
    server = BatchServer().start()
    yield server
    server.stop()


@pytest.fixture
def server(one_server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    """The batch server, fresh; its key is in the environment."""
    one_server.reset()
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "MONOSEM_API_KEY"):
        monkeypatch.setenv(name, KEY)
    yield one_server
    while OPEN:
        OPEN.pop().carrier.close()
