"""Codes, examples and co-activation over ranks: the files are those of one process."""

import shutil
from pathlib import Path

import pytest
from torchrun import finish, script, start

from monosem.interpret import coactivation, encoding, examples
from monosem.run import Run

STAGES = ("codes", "examples", "coactivation")
MAKE = """
from pathlib import Path
from monosem.interpret import coactivation, encoding, examples
from monosem.run import Run
coactivation.TABLE_BYTES = 4 * 64 * 10
opened = Run.open(Path({folder!r}))
run = Run(opened.path, opened.recipe, ranks)
with run.lock():
    for stage in (encoding, examples, coactivation):
        made = stage.make(run)
        assert made.complete and stage.open_stage(run).complete
"""


def files(run: Run) -> dict[str, bytes]:
    """What the stages left, without the times of manifests."""
    paths = [path for stage in STAGES for path in sorted(run.folder(stage).iterdir()) if path.name != "manifest.json"]
    return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_leave_the_files_of_one_process(trained: Run, tmp_path: Path, world: int):
    together = Run(tmp_path / "together", trained.recipe)
    shutil.copytree(trained.path, together.path)
    finish(start(script(MAKE.format(folder=str(together.path))), world=world))
    for stage in (encoding, examples, coactivation):
        stage.make(trained)
    assert files(together) == files(trained)
    for stage in (encoding, examples, coactivation):
        alone, shared = (stage.open_stage(run).require().manifest for run in (trained, together))
        assert shared.counts == alone.counts
        assert shared.shards == alone.shards
