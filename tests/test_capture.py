"""Capture: the model's own activations, every token once, filters counted, the same bytes after any interruption."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interrupted import contents, make_with_kills
from safetensors.torch import load_file, save_file

from monosem import capture
from monosem.capture import units
from monosem.capture.reading import Captured, batches
from monosem.capture.writing import Writer, drops
from monosem.corpus import sentences, tokens
from monosem.corpus.sentences import Sentences
from monosem.errors import ModelError, RunError, StoreError
from monosem.lm.packed import Packed
from monosem.lm.source import open_model
from monosem.recipe import Recipe
from monosem.run import Run, Stage
from monosem.store import disk, shards
from monosem.store.encoding import Format
from monosem.store.shards import Rows

POINTS = ("1.resid_post", "0.mlp_out")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path, tiny_documents: list[dict[str, str]]) -> dict[str, dict[str, object]]:
    """Sections of a recipe with the tiny model and 300 documents."""
    text = tmp_path / "documents.jsonl"
    text.write_text("".join(json.dumps(document) + "\n" for document in tiny_documents[:300]))
    return {
        "model": {"source": str(tiny_model), "dtype": "float32"},
        "corpus": {"sources": [str(text)], "max_tokens": 20},
        "capture": {"hook_points": POINTS, "dtype": "float32", "shard_mb": 1, "batch_tokens": 200, "max_norm_ratio": 0},
    }


def run_of(path: Path, settings: Mapping[str, Mapping[str, object]], **keys: object) -> Run:
    """A run with its sentences, the keys laid over the section `capture`."""
    run = Run(path, Recipe.model_validate({**settings, "capture": {**settings["capture"], **keys}}))
    sentences.make(run)
    return run


def stored(stage: Stage) -> Rows:
    parts = [shards.read(stage.path / shard.name) for shard in stage.manifest.shards]
    return Rows(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def ids_of(run: Run) -> list[list[int]]:
    reader = Sentences(run.folder("sentences"))
    tokenizer = open_model(run.recipe.model).tokenizer
    return tokens.encode(tokenizer, reader.texts(0, len(reader)), run.recipe.corpus.max_tokens)


def test_what_is_stored_is_what_the_model_gives(tmp_path: Path, settings: dict[str, dict[str, object]]) -> None:
    run = run_of(tmp_path / "run", settings)
    capture.make(run)
    model, ids = open_model(run.recipe.model), ids_of(run)
    assert max(map(len, ids)) == 20  # some were cut
    for point in POINTS:
        rows = stored(capture.open_stage(run, point).require())
        everything = Packed.pack(ids)
        assert torch.equal(rows.token, everything.ids.int())
        assert torch.equal(rows.position, everything.position.int())
        assert torch.equal(rows.sentence, everything.sentence)
        for sentence in range(0, len(ids), 37):
            alone = model.activations(Packed.pack([ids[sentence]]), [point])[point]
            torch.testing.assert_close(rows.activations[rows.sentence == sentence], alone, rtol=1e-4, atol=1e-4)


def test_shards_hold_whole_sentences_and_are_counted(tmp_path: Path, settings: dict[str, dict[str, object]]) -> None:
    run = run_of(tmp_path / "run", settings)
    stage = capture.make(run)
    opened = [shards.read(stage.path / shard.name) for shard in stage.manifest.shards]
    assert len(opened) >= 2
    for before, after in pairwise(opened):
        assert after.sentence[0] == before.sentence[-1] + 1
        assert after.position[0] == 0
    counts = stage.manifest.counts
    assert counts["tokens"] == counts["rows"] == sum(map(len, ids_of(run)))
    assert counts["d"] == 32
    assert counts["sentences"] == len(Sentences(run.folder("sentences")))
    assert counts["norm_threshold"] is None
    assert str(settings["model"]["source"]) in json.loads((run.path / "licences.json").read_text())


def test_filters_leave_out_what_they_say(tmp_path: Path, settings: dict[str, dict[str, object]]) -> None:
    whole = stored(capture.make(run_of(tmp_path / "whole", settings)))
    run = run_of(tmp_path / "filtered", settings, hook_points=POINTS[:1], max_norm_ratio=1.05, drop_first=True)
    stage = capture.make(run)
    counts, kept = stage.manifest.counts, stored(stage)
    norms = whole.activations.norm(dim=1)
    assert counts["norm_threshold"] == pytest.approx(1.05 * counts["median_norm"])
    assert counts["median_norm"] == pytest.approx(float(norms.median()), rel=0.05)
    expected = (whole.position > 0) & (norms <= counts["norm_threshold"])
    assert 0 < expected.sum() < len(expected)
    for found, tensor in zip(kept, whole, strict=True):
        assert torch.equal(found, tensor[expected])
    assert counts["dropped_first"] == (whole.position == 0).sum()
    assert counts["dropped_norm"] == len(expected) - counts["dropped_first"] - counts["rows"]
    assert counts["tokens"] == len(expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_store_rounds_to_its_own_format(tmp_path: Path, settings: dict[str, dict[str, object]], dtype: str) -> None:
    whole = stored(capture.make(run_of(tmp_path / "whole", settings)))
    # the same units of sentences: half the bytes a value
    rounded = stored(capture.make(run_of(tmp_path / "rounded", settings, dtype=dtype)))
    assert torch.equal(rounded.token, whole.token)
    torch.testing.assert_close(rounded.activations.float(), whole.activations, rtol=0.01, atol=0.01)
    assert rounded.activations.dtype == getattr(torch, dtype)


def test_the_manifest_says_what_the_format_costs(tmp_path: Path, settings: dict[str, dict[str, object]]) -> None:
    whole = stored(capture.make(run_of(tmp_path / "whole", settings)))
    variance = (whole.activations - whole.activations.mean(dim=0)).square().sum()
    for dtype, size in (("float32", 4 * 32), ("bfloat16", 2 * 32), ("int8", 32 + 2)):
        stage = capture.make(run_of(tmp_path / dtype, settings, dtype=dtype))
        counts, rows = stage.manifest.counts, stored(stage)
        assert torch.equal(rows.token, whole.token)
        assert counts["bytes_per_activation"] == size
        added = float((rows.activations.float() - whole.activations).square().sum() / variance)
        assert counts["added_fvu"] == pytest.approx(added, rel=0.02)
        assert added < 1e-4
    # the units are cut by bytes on disk: int8 makes fewer shards of the same sentences
    assert len(stage.shards) < len(capture.open_stage(run_of(tmp_path / "whole", settings)).shards)


def test_sinks_that_are_kept_are_left_out_of_the_figure(
    tmp_path: Path, settings: dict[str, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = capture.make(run_of(tmp_path / "plain", settings, dtype="int8")).manifest.counts
    put = Captured.put

    def with_sinks(self: Captured, rows: torch.Tensor, x: torch.Tensor) -> None:
        put(self, rows, torch.where((rows % 25 == 0)[:, None], 100 * x, x))

    monkeypatch.setattr(Captured, "put", with_sinks)
    stage = capture.make(run_of(tmp_path / "sinks", settings, dtype="int8"))
    assert stage.manifest.counts["added_fvu"] == pytest.approx(plain["added_fvu"], rel=0.05)
    assert stored(stage).activations.norm(dim=1).max() > 20 * stage.manifest.counts["median_norm"]


def test_one_more_hook_point_leaves_the_first_alone(tmp_path: Path, settings: dict[str, dict[str, object]]) -> None:
    both = run_of(tmp_path / "both", settings, paired=False)
    capture.make(both)
    first = run_of(tmp_path / "later", settings, hook_points=POINTS[:1])
    stage = capture.make(first)
    later = run_of(tmp_path / "later", settings, paired=False)
    assert not capture.open_stage(later).complete
    assert capture.make(later).manifest == stage.manifest
    assert capture.open_stage(later).complete
    assert contents(tmp_path / "later" / "activations") == contents(tmp_path / "both" / "activations")


def test_what_one_hook_point_drops_is_dropped_at_all(tmp_path: Path, settings: dict[str, dict[str, object]]) -> None:
    ratio = {"max_norm_ratio": 1.05}
    apart, joint = (run_of(tmp_path / str(paired), settings, **ratio, paired=paired) for paired in (False, True))
    capture.make(apart)
    capture.make(joint)

    def tokens_of(run: Run, point: str) -> set[tuple[int, int]]:
        rows = stored(capture.open_stage(run, point).require())
        return set(zip(rows.sentence.tolist(), rows.position.tolist(), strict=True))

    one, other = (tokens_of(apart, point) for point in POINTS)
    assert one != other
    assert tokens_of(joint, POINTS[0]) == tokens_of(joint, POINTS[1]) == one & other
    for point, own in zip(POINTS, (one, other), strict=True):
        found, alone = (capture.open_stage(run, point).manifest.counts for run in (joint, apart))
        assert found["dropped_norm"] == alone["dropped_norm"]
        assert found["dropped_elsewhere"] == len(own) - len(one & other) > 0
        assert alone["dropped_elsewhere"] == 0
        assert found["tokens"] == found["rows"] + found["dropped_norm"] + found["dropped_elsewhere"]
    first = [stored(capture.open_stage(joint, point)) for point in POINTS]
    for a, b in zip(first[0][1:], first[1][1:], strict=True):
        assert torch.equal(a, b)


def test_a_hook_point_cannot_join_a_pair_later(tmp_path: Path, settings: dict[str, dict[str, object]]) -> None:
    capture.make(run_of(tmp_path / "run", settings, hook_points=POINTS[:1]))
    with pytest.raises(RunError, match=r"made with another recipe .paired_with: the files have None"):
        capture.make(run_of(tmp_path / "run", settings))


def test_killed_anywhere_it_ends_with_the_same_bytes(tmp_path: Path, settings: dict[str, dict[str, object]]) -> None:
    whole = run_of(tmp_path / "whole", settings)
    capture.make(whole)
    killed = run_of(tmp_path / "killed", settings)
    (tmp_path / "recipe.json").write_text(killed.recipe.model_dump_json())
    kills = make_with_kills(
        f"""
        from pathlib import Path
        import torch
        from monosem import capture
        from monosem.recipe import Recipe
        from monosem.run import Run
        torch.set_num_threads({torch.get_num_threads()})
        recipe = Recipe.model_validate_json(Path({str(tmp_path / "recipe.json")!r}).read_text())
        def make():
            capture.make(Run(Path({str(killed.path)!r}), recipe))
        """
    )
    assert kills >= 3
    assert contents(killed.path) == contents(whole.path)


def test_a_disk_that_fills_up_leaves_a_store_that_goes_on(
    tmp_path: Path, settings: dict[str, dict[str, object]]
) -> None:
    whole = run_of(tmp_path / "whole", settings)
    capture.make(whole)
    full = run_of(tmp_path / "full", settings)
    (tmp_path / "recipe.json").write_text(full.recipe.model_dump_json())
    script = f"""
    import resource
    from pathlib import Path
    from monosem import capture
    from monosem.recipe import Recipe
    from monosem.run import Run
    import torch
    torch.set_num_threads(1)  # as here: sums of floats depend on the number of threads in the last bit
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))
    recipe = Recipe.model_validate_json(Path({str(tmp_path / "recipe.json")!r}).read_text())
    try:
        capture.make(Run(Path({str(full.path)!r}), recipe))
    except OSError as error:
        print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "no room left on the disk" in done.stdout
    assert f"activations/{POINTS[0]}" in done.stdout or f"activations/{POINTS[1]}" in done.stdout
    capture.make(full)
    assert contents(full.path) == contents(whole.path)


def test_activations_that_are_not_finite_are_refused(
    tmp_path: Path, settings: dict[str, dict[str, object]], tiny_model: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][3] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    run = run_of(tmp_path / "run", settings | {"model": {"source": str(broken), "dtype": "float32"}})
    with pytest.raises(StoreError, match=r"activations of sentences 0 to \d+ are not finite; set model.dtype"):
        capture.make(run)


def test_a_hook_point_that_does_not_exist_is_named(tmp_path: Path, settings: dict[str, dict[str, object]]) -> None:
    with pytest.raises(ModelError, match=r"'9.resid_post': the model has layers 0 to 2"):
        capture.make(run_of(tmp_path / "run", settings, hook_points=("9.resid_post",)))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(
    tmp_path: Path, settings: dict[str, dict[str, object]], tiny_documents: list[dict[str, str]]
) -> None:
    peaks = []
    # oneDNN keeps a kernel for each shape it has met: the default, 1,024 of them, a small corpus does not reach
    environment = {
        **os.environ,
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8",
        "LRU_CACHE_CAPACITY": "8",
        "OMP_NUM_THREADS": "1",
    }
    for copies in (8, 32):
        text = tmp_path / f"{copies}.jsonl"
        text.write_text("".join(json.dumps(document) + "\n" for document in tiny_documents[:300] * copies))
        corpus = {**settings["corpus"], "sources": [str(text)]}
        run = run_of(tmp_path / str(copies), {**settings, "corpus": corpus}, batch_tokens=4096)
        (tmp_path / "recipe.json").write_text(run.recipe.model_dump_json())
        lines = f"""
        from pathlib import Path
        from monosem import capture
        from monosem.recipe import Recipe
        from monosem.run import Run
        recipe = Recipe.model_validate_json(Path({str(tmp_path / "recipe.json")!r}).read_text())
        capture.make(Run(Path({str(run.path)!r}), recipe))
        print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])  # in kB, of this program alone
        """
        command = [sys.executable, "-c", textwrap.dedent(lines)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        peaks.append(int(done.stdout))
        assert len(capture.open_stage(run).shards) > 12 * copies // 8
    assert peaks[1] < 1.1 * peaks[0], peaks  # to hold on to the rows would take 83 MB, or 18 %


def test_too_small_a_disk_is_said_before_the_first_shard(
    tmp_path: Path, settings: dict[str, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path / "run", settings)
    monkeypatch.setattr(disk, "SPARE_BYTES", 10**18)
    with pytest.raises(StoreError, match="capture needs"):
        capture.make(run)
    assert not list((tmp_path / "run" / "activations").rglob("*.safetensors"))


def test_without_sentences_the_error_names_their_folder(tmp_path: Path, settings: dict[str, dict[str, object]]) -> None:
    with pytest.raises(RunError, match="sentences has not been made"):
        capture.make(Run(tmp_path / "run", Recipe.model_validate(settings)))


def test_what_is_not_finite_is_left_out_and_counted_once() -> None:
    x = torch.ones(6, 4)
    x[1, 2], x[2, 0], x[3], x[4, 1] = float("nan"), float("inf"), 100.0, 1e5
    position = torch.tensor([0, 1, 2, 3, 4, 0])
    captured = Captured.empty(Format(torch.float16, torch.zeros(4)), 6, torch.device("cpu"))
    captured.put(torch.arange(6), x)
    plain = drops(captured, position, None, drop_first=False)
    assert (~plain.any).nonzero().flatten().tolist() == [0, 3, 5]
    assert [int(which.sum()) for which in plain] == [0, 0, 3]
    # 1e5 is beyond float16, but its norm is finite: it goes as a sink, not as a fault
    filtered = drops(captured, position, 50.0, drop_first=True)
    assert bool(filtered.any.all())
    assert [int(which.sum()) for which in filtered] == [2, 2, 2]


def test_who_brings_more_than_the_writers_take_waits_and_sees_their_errors() -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()
    running = []

    def piece(number: int) -> None:
        running.append(number)
        begun.release()
        assert go_on.wait(10)

    with Writer(threads=1, most=2) as writer:
        for number in range(2):
            writer.put(lambda number=number: piece(number))
        begun.acquire()
        assert (running, writer.waited < 0.2) == ([0], True)
        threading.Timer(0.3, go_on.set).start()
        writer.put(lambda: piece(2))
        assert writer.waited > 0.2
        writer.finish()
        assert running == [0, 1, 2]

    def fails() -> None:
        raise StoreError("no room")

    with pytest.raises(StoreError, match="no room"), Writer(threads=1, most=1) as writer:
        for _ in range(3):
            writer.put(fails)


@given(st.integers(0, 500), st.integers(1, 60))
def test_units_cover_every_sentence_once(count: int, size: int) -> None:
    found = list(units(count, size))
    assert [sentence for unit in found for sentence in range(unit.start, unit.stop)] == list(range(count))
    assert len({unit.name for unit in found}) == len(found)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 120))
def test_batches_are_of_near_equal_lengths_and_hold_each_sentence_once(lengths: list[int], most: int) -> None:
    sizes = np.array(lengths)
    found = list(batches(sizes, most))
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    assert all(len(batch) == 1 or sizes[batch].sum() <= most for batch in found)
    assert (np.diff(sizes[np.concatenate(found)]) >= 0).all()


@pytest.mark.model
def test_the_first_token_is_a_sink_of_the_embedded_model_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    run = Run(tmp_path / "run", Recipe.model_validate({"corpus": {"max_documents": 12}, "capture": {"shard_mb": 1}}))
    sentences.make(run)
    stage = capture.make(run)
    counts, rows = stage.manifest.counts, stored(stage)
    assert 150 < counts["median_norm"] < 350
    assert counts["dropped_norm"] >= counts["sentences"]
    assert (rows.position > 0).all()
    assert rows.activations.float().norm(dim=1).max() <= counts["norm_threshold"] * 1.01
