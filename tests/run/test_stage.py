"""A stage's folder: fingerprints, skipping, the journal of an interrupted stage."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from monosem.errors import RunError
from monosem.recipe import Recipe
from monosem.run import Run, Stage, read_manifest


def opened(path: Path, part: dict | None = None, inputs: dict[str, str] | None = None) -> Stage:
    return Run(path, Recipe()).stage(path / "sae", part or {"sae": {"k": 32}}, inputs or {"batches": "abc"})


def finished(path: Path) -> Stage:
    stage = opened(path)
    stage.begin()
    for name in ("b", "a"):
        (stage.path / name).write_text(name * 10)
        stage.add_shard(name, rows=10, first=name)
    stage.finish(rows=20)
    return stage


def test_opening_a_stage_writes_nothing(tmp_path: Path) -> None:
    assert not opened(tmp_path).complete
    assert list(tmp_path.iterdir()) == []


def test_a_finished_stage_is_complete_and_its_shards_are_sorted(tmp_path: Path) -> None:
    finished(tmp_path)
    again = opened(tmp_path)
    assert again.complete
    assert [(shard.name, shard.rows, shard.bytes, shard.info) for shard in again.shards] == [
        ("a", 10, 10, {"first": "a"}),
        ("b", 10, 10, {"first": "b"}),
    ]
    assert again.manifest.counts == {"rows": 20}
    assert not (tmp_path / "sae" / "shards.jsonl").exists()


@pytest.mark.parametrize(
    ("part", "inputs", "told"),
    [
        ({"sae": {"k": 64}}, None, "sae.k: the files have 32, the recipe says 64"),
        (None, {"batches": "other"}, "batches: the files have 'abc', the recipe says 'other'"),
    ],
)
def test_files_of_another_recipe_are_refused_by_key(tmp_path: Path, part, inputs, told: str) -> None:
    finished(tmp_path)
    with pytest.raises(RunError) as error:
        opened(tmp_path, part, inputs)
    assert told in str(error.value)
    assert "--redo" in str(error.value)


def test_the_fingerprint_follows_the_inputs(tmp_path: Path) -> None:
    assert opened(tmp_path).fingerprint == opened(tmp_path).fingerprint
    assert opened(tmp_path).fingerprint != opened(tmp_path, inputs={"batches": "abd"}).fingerprint


def test_an_interrupted_stage_goes_on_after_its_last_whole_shard(tmp_path: Path) -> None:
    stage = opened(tmp_path)
    stage.begin()
    for name in ("a", "b"):
        (stage.path / name).write_text(name)
        stage.add_shard(name, rows=1)
    journal = stage.path / "shards.jsonl"
    journal.write_text(journal.read_text() + '{"name": "c", "ro')
    (stage.path / "b").unlink()
    (stage.path / "c.123.tmp").write_text("half")
    (stage.path / "step-7.123.tmp").mkdir()
    (stage.path / "step-7.123.tmp" / "weights").write_text("half")
    assert [shard.name for shard in opened(tmp_path).begin()] == ["a"]
    assert not list(stage.path.glob("*.tmp"))


def test_a_shard_written_again_after_a_crash_counts_once(tmp_path: Path) -> None:
    stage = opened(tmp_path)
    stage.begin()
    (stage.path / "a").write_text("a")
    stage.add_shard("a", rows=1)
    again = opened(tmp_path)
    again.begin()
    again.add_shard("a", rows=1)
    assert [shard.name for shard in again.finish().shards] == ["a"]


def test_a_stage_that_is_needed_must_be_complete(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="sae has not been made"):
        opened(tmp_path).require()
    opened(tmp_path).begin()
    with pytest.raises(RunError, match="sae was interrupted"):
        opened(tmp_path).require()
    finished(tmp_path / "other").require()


def test_a_manifest_that_is_none_is_named(tmp_path: Path) -> None:
    finished(tmp_path)
    manifest = tmp_path / "sae" / "manifest.json"
    manifest.write_text("{")
    with pytest.raises(RunError, match=r"manifest\.json: not a manifest"):
        read_manifest(tmp_path / "sae")
    content = {"stage": "sae", "recipe": {}, "inputs": {}, "fingerprint": "", "schema_version": 99}
    manifest.write_text(json.dumps(content))
    with pytest.raises(RunError, match="format 99, this version reads 1"):
        read_manifest(tmp_path / "sae")


def test_a_killed_process_leaves_no_half_file_behind_after_begin(tmp_path: Path) -> None:
    code = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from monosem.recipe import Recipe
        from monosem.atomic import atomic_path
        from monosem.run import Run
        stage = Run(Path({str(tmp_path)!r}), Recipe()).stage(Path({str(tmp_path / "sae")!r}), {{"a": 1}}, {{}})
        stage.begin()
        with atomic_path(stage.path / "shard") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ})
    assert killed.returncode == -signal.SIGKILL
    stage = Run(tmp_path, Recipe()).stage(tmp_path / "sae", {"a": 1}, {})
    assert stage.begin() == []
    assert sorted(path.name for path in stage.path.iterdir()) == ["manifest.json"]


def test_shards_of_several_ranks_are_one_stage(tmp_path: Path) -> None:
    stage = opened(tmp_path)
    stage.begin()
    for number, journal in enumerate(("shards.jsonl", "shards-00001.jsonl", "shards-00007.jsonl")):
        name = f"part-{number}"
        (stage.path / name).write_text(name)
        line = {"name": name, "rows": 1, "bytes": 6, "sha256": "x"}
        (stage.path / journal).write_text(json.dumps(line) + "\n")
    again = opened(tmp_path)
    assert [shard.name for shard in again.begin()] == ["part-1", "part-2", "part-0"]
    assert [file.name for file in stage.path.glob("*.jsonl")] == ["shards.jsonl"]
    assert [shard.name for shard in again.finish().shards] == ["part-0", "part-1", "part-2"]
