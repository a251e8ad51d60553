"""Capture over ranks: whoever reads a unit, and whoever dies, the files are those of one process."""

import json
from pathlib import Path

import pytest
import torch
from killed_ranks import make_with_kills_of_ranks, without_times
from torchrun import finish, start

from monosem.capture import open_stage
from monosem.corpus import sentences
from monosem.recipe import Recipe
from monosem.run import Run
from monosem.store import shards

POINTS = ("1.resid_post", "0.mlp_out")
MANY_UNITS = """
from pathlib import Path
from monosem import capture
from monosem.capture import stage
from monosem.recipe import Recipe
from monosem.run import Run
stage.stored_bytes = lambda dtype, d: {token_bytes}  # units of a few sentences
recipe = Recipe.model_validate_json(Path({recipe!r}).read_text())
FOLDER = Path({folder!r}) / "activations"
def make(ranks):
    run = Run(Path({folder!r}), recipe, ranks)
    with run.lock():
        capture.make(run)
"""


@pytest.fixture
def tiny(tmp_path: Path, tiny_model: Path, tiny_documents: list[dict[str, str]]) -> Recipe:
    text = tmp_path / "documents.jsonl"
    text.write_text("".join(json.dumps(document) + "\n" for document in tiny_documents))
    return Recipe.model_validate(
        {
            "model": {"source": str(tiny_model), "dtype": "float32"},
            "corpus": {"sources": [str(text)], "max_tokens": 20},
            "capture": {"hook_points": POINTS, "shard_mb": 1, "batch_tokens": 200, "max_norm_ratio": 1.1},
        }
    )


def with_dtype(recipe: Recipe, dtype: str) -> Recipe:
    return recipe.model_copy(update={"capture": recipe.capture.model_copy(update={"dtype": dtype})})


def setup(run: Run, token_bytes: int) -> str:
    file = run.path / "recipe.json"
    run.path.mkdir(exist_ok=True)
    file.write_text(run.recipe.model_dump_json())
    sentences.make(run)
    return MANY_UNITS.format(token_bytes=token_bytes, recipe=str(file), folder=str(run.path))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_ranks_killed_ten_times_leave_the_files_of_one_process(
    tmp_path: Path, tiny: Recipe, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    one, many = (Run(tmp_path / name, with_dtype(tiny, dtype)) for name in ("one", "many"))
    alone = setup(one, token_bytes=6000) + "\nmake(Ranks())\nos._exit(0)\n"
    finish(start(["-c", "import os\nfrom monosem.ranks import Ranks\n" + alone], world=1))
    make_with_kills_of_ranks(setup(many, token_bytes=6000))
    found, expected = (without_times(run.path / "activations") for run in (many, one))
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    stages = [open_stage(many, point).require() for point in POINTS]
    places = []
    for stage in stages:
        assert len(stage.shards) > 60
        parts = [shards.read(stage.path / shard.name) for shard in stage.shards]
        places.append(torch.cat([torch.stack([part.sentence, part.position.long()], dim=1) for part in parts]))
        counts = stage.manifest.counts
        dropped = counts["dropped_norm"] + counts["dropped_elsewhere"]
        assert len(places[-1].unique(dim=0)) == len(places[-1]) == counts["tokens"] - dropped > 10_000
    assert torch.equal(*places)


@pytest.mark.slow
def test_two_ranks_of_torchrun_make_what_one_makes(
    tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    one, two = (Run(tmp_path / name, tiny) for name in ("one", "two"))
    processes = []
    for run, world in ((one, 1), (two, 2)):
        text = "import os\nfrom monosem.ranks import joined\n" + setup(run, token_bytes=6000)
        processes += start(["-c", text + "\nwith joined(60) as ranks:\n    make(ranks)\n"], world)
    assert finish(processes) == ["", "", ""]
    assert without_times(two.path / "activations") == without_times(one.path / "activations")
