"""The shuffle on disk: every row once, split by sentence, independent of the order it came in and of the workers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interrupted import contents, make_with_kills
from killed_ranks import make_with_kills_of_ranks, without_times
from scipy.optimize import minimize
from scipy.stats import chi2_contingency, chisquare
from source_store import Made, in_order, make_store, read_all

from monosem.errors import StoreError
from monosem.recipe import PrepareRecipe, Recipe
from monosem.run import Manifest, Run, Stage
from monosem.store import inspection, median, preparation, prepare, remote
from monosem.store.pack import pack
from monosem.store.preparation import Plan
from monosem.store.shards import open_shards
from monosem.store.split import is_validation
from monosem.store.stats import Statistics

FRACTION = 0.2


PLAN = Plan(5, 2)  # though the store is small


@pytest.fixture
def store(tmp_path: Path) -> Made:
    return make_store(tmp_path)


def prepared(
    store: Made, name: str = "x", seed: int = 3, workers: int = 2, fraction: float = FRACTION, **keys: Any
) -> Stage:
    run = store.stage.path.parent.parent
    stage = Stage(run / "batches" / name, "batches", {"seed": seed}, {})
    recipe = PrepareRecipe(validation_fraction=fraction, workers=workers, **keys)
    preparation.Preparation(store.stage, stage, recipe, seed, PLAN).make()
    return stage


def test_every_row_lands_once_on_its_side(store: Made) -> None:
    stage = prepared(store)
    train, validation = read_all(stage.path, "train-"), read_all(stage.path, "validation-")
    assert not is_validation(train.sentence, FRACTION, 3).any()
    assert is_validation(validation.sentence, FRACTION, 3).all()
    both = type(train)(*(torch.cat(pair) for pair in zip(train, validation, strict=True)))
    for found, expected in zip(in_order(both), in_order(store.rows), strict=True):
        assert torch.equal(found, expected)
    assert stage.manifest.counts["train"] == len(train.token)
    assert stage.manifest.counts["validation"] == len(validation.token)
    assert len([shard for shard in stage.shards if shard.name.startswith("train-")]) == 5
    assert stage.manifest.counts["norm_threshold"] == 123.0
    assert not (stage.path / "scatter").exists()


def test_statistics_are_those_of_the_training_rows(store: Made) -> None:
    stage = prepared(store)
    train = read_all(stage.path, "train-").activations.double().numpy()
    found = Statistics.load(stage.path)
    assert found.count == len(train)
    np.testing.assert_allclose(found.mean, train.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.variance, train.var(0), rtol=1e-6)
    assert stage.manifest.counts["total_variance"] == pytest.approx(train.var(0).sum(), rel=1e-6)


def test_the_geometric_median_is_that_of_the_training_rows(store: Made) -> None:
    stage = prepared(store, geometric_median=True, workers=3)
    train = read_all(stage.path, "train-").activations.double()
    found = median.load(stage.path)
    assert found is not None

    def summed(point: torch.Tensor) -> float:
        return float((train - point).norm(dim=1).sum())

    best = minimize(lambda point: summed(torch.from_numpy(point)), train.mean(0).numpy(), tol=1e-12)
    assert summed(torch.from_numpy(found)) <= best.fun * (1 + 1e-9)
    assert summed(torch.from_numpy(found)) < summed(train.mean(0))
    np.testing.assert_allclose(found, best.x, rtol=1e-3, atol=1e-3)
    assert contents(prepared(store, "again", geometric_median=True, workers=1).path) == contents(stage.path)
    assert median.load(prepared(store, "without").path) is None


def test_workers_change_no_byte_and_the_seed_does(store: Made) -> None:
    one, three = prepared(store, "one", workers=1), prepared(store, "three", workers=3)
    assert contents(one.path) == contents(three.path)
    assert contents(one.path) != contents(prepared(store, "other", seed=4).path)


def test_place_in_the_store_is_independent_of_the_place_before(tmp_path: Path) -> None:
    store = make_store(tmp_path, sentences=9000, d=2, per_shard=1500)
    stage = prepared(store)
    token = read_all(stage.path, "train-").token.numpy()
    before = token * 20 // len(store.rows.token)
    after = np.arange(len(token)) * 20 // len(token)
    table = np.histogram2d(before, after, bins=20)[0]
    p = np.asarray(chi2_contingency(table)[1])
    assert p > 0.001
    neighbours = np.abs(np.diff(token)) < 12  # of one sentence, mostly
    assert neighbours.mean() < 0.002


@pytest.mark.parametrize("consume", [False, True])
def test_killed_anywhere_it_ends_with_the_same_bytes(store: Made, consume: bool) -> None:
    whole = prepared(store, "whole")
    run = store.stage.path.parent.parent
    kills = make_with_kills(
        f"""
        from pathlib import Path
        from monosem.recipe import PrepareRecipe
        from monosem.run import Stage, read_manifest
        from monosem.store import preparation
        run = Path({str(run)!r})
        def make():
            source = Stage(run / "activations" / "1.resid_post", "activations", {{"made": "for a test"}}, {{}})
            stage = Stage(run / "batches" / "killed", "batches", {{"seed": 3}}, {{}})
            recipe = PrepareRecipe(validation_fraction={FRACTION}, workers=2, consume={consume})
            preparation.Preparation(source, stage, recipe, 3, preparation.Plan(5, 2)).make()
        """
    )
    assert kills >= 4
    assert contents(run / "batches" / "killed") == contents(whole.path)


def test_consumed_activations_are_gone_and_every_reader_says_so(store: Made, tmp_path: Path) -> None:
    whole = prepared(store, "whole")
    source = store.stage.path
    assert contents(prepared(store, "consumed", consume=True).path) == contents(whole.path)
    assert [file.name for file in source.iterdir()] == ["manifest.json"]
    again = Stage(source, "activations", {"made": "for a test"}, {})
    assert again.require().manifest.counts["consumed"] == "batches/consumed"
    gone = rf"{source}: prepare.consume deleted these activations when it made batches/consumed; make them again with"
    with pytest.raises(StoreError, match=gone):
        open_shards(source)
    with pytest.raises(StoreError, match=gone):
        inspection.check(source)
    with pytest.raises(StoreError, match=gone):
        prepared(Made(again, store.rows), "later")


def test_what_lies_in_archives_or_elsewhere_is_never_deleted(store: Made, tmp_path: Path) -> None:
    pack(store.stage.path, str(tmp_path / "packed"), 1)
    linked = Stage(tmp_path / "linked" / "activations", "activations", {"made": "for a test"}, {})
    remote.adopt(linked, str(store.stage.path))
    for folder in (tmp_path / "packed", linked.path):
        before = contents(tmp_path)
        source = Stage(folder, "activations", {"made": "for a test"}, {})
        with pytest.raises(
            StoreError, match=rf"{folder}: prepare.consume cannot delete shards in archives or elsewhere"
        ):
            prepared(Made(source, store.rows), "x", consume=True)
        assert before.items() <= contents(tmp_path).items()
        assert "consumed" not in Stage(folder, "activations", {"made": "for a test"}, {}).manifest.counts


def test_a_shard_that_cannot_be_sorted_is_kept(store: Made) -> None:
    file = store.stage.path / store.stage.shards[2].name
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(StoreError, match=rf"{file}: damaged"):
        prepared(store, workers=1, consume=True)
    assert file.exists()
    file.write_bytes(good)
    stage = prepared(store, workers=1)
    assert stage.manifest.counts["train"] + stage.manifest.counts["validation"] == len(store.rows.token)


def test_the_room_it_needs_is_said_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path, sentences=3000, d=256, per_shard=500)
    size = sum(shard.bytes for shard in store.stage.shards)
    told = []
    for name, consume in (("x", False), ("y", True)):
        with monkeypatch.context() as patched:
            peak = watched(tmp_path, patched)
            prepared(store, name, consume=consume, workers=1)
        found = re.search(r"needs at most ([\d.]+) MB more", capsys.readouterr().err)
        assert found is not None
        told.append(float(found[1]) * 1e6)
        # beside the rows there are histograms of norms, which weigh something in a store as small as this
        assert 0.85 * told[-1] < peak() < 1.05 * told[-1] + 8 * 80_000
    assert told == [pytest.approx(2 * size, rel=0.05), pytest.approx(size, rel=0.05)]


def watched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Gives the most bytes that were below a folder, beyond those there now, as often as a file was finished."""

    def used() -> int:
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

    begun, most = used(), 0
    replace = Path.replace

    def watching(self: Path, target: Path) -> Path:
        nonlocal most
        most = max(most, used())
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watching)
    return lambda: most - begun


def test_a_damaged_source_shard_is_named_and_the_stage_goes_on_once_it_is_mended(store: Made) -> None:
    file = store.stage.path / store.stage.shards[2].name
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(StoreError, match=rf"{file}: damaged.*--redo capture"):
        prepared(store)
    file.write_bytes(good)
    prepared(store, "y")
    assert contents(prepared(store).path) == contents(prepared(store, "y").path)


def test_a_split_that_leaves_nothing_is_an_error(tmp_path: Path) -> None:
    store = make_store(tmp_path, sentences=3, per_shard=3)
    with pytest.raises(StoreError, match=r"prepare.validation_fraction = 1e-09 leaves no activation to validate with"):
        prepared(store, fraction=1e-9)


def test_too_small_a_disk_is_said_first(store: Made) -> None:
    store.stage.manifest.shards[0] = store.stage.shards[0].model_copy(update={"bytes": 10**18})
    store.stage.shards[0] = store.stage.manifest.shards[0]
    with pytest.raises(StoreError, match=r"prepare needs 2000000000.* GB are free"):
        prepared(store)


@given(st.floats(0.01, 0.99), st.integers(0, 2**40))
def test_the_split_is_a_fair_draw_that_everybody_can_repeat(fraction: float, seed: int) -> None:
    ids = np.arange(20_000)
    held_out = is_validation(ids, fraction, seed)
    assert abs(held_out.mean() - fraction) < 5 * (fraction * (1 - fraction) / len(ids)) ** 0.5
    np.testing.assert_array_equal(is_validation(torch.from_numpy(ids[7000:7100]), fraction, seed), held_out[7000:7100])


def test_the_split_does_not_depend_on_the_place_of_a_sentence() -> None:
    held_out = is_validation(np.arange(200_000), 0.1, 0)
    assert chisquare(held_out.reshape(100, -1).sum(1)).pvalue > 0.001
    assert (held_out != is_validation(np.arange(200_000), 0.1, 1)).any()


def test_the_number_of_shards_follows_from_bytes() -> None:
    shard = {"name": "a", "rows": 1, "sha256": ""}
    source = Manifest.model_validate(
        {
            "stage": "activations",
            "recipe": {},
            "inputs": {},
            "fingerprint": "",
            "shards": [{**shard, "bytes": 40 << 20}],
        }
    )
    assert Plan.of(source, PrepareRecipe(shard_mb=10, validation_fraction=0.05)) == Plan(4, 1)
    assert Plan.of(source, PrepareRecipe(shard_mb=512)) == Plan(1, 1)
    assert Plan(2, 1).names == ["train-00000.safetensors", "train-00001.safetensors", "validation-00000.safetensors"]


def test_what_consume_would_make_impossible_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Recipe.model_validate({"prepare": {"consume": True}}))
    prepare.check(run, ["capture", "prepare", "train"], None)
    with pytest.raises(StoreError, match=r"prepare\.consume frees the activations that the stage codes reads"):
        prepare.check(run, ["prepare", "examples"], None)


def test_batches_that_are_the_only_copy_are_not_made_again(store: Made) -> None:
    prepared(store, "only", consume=True)
    recipe = Recipe.model_validate({"capture": {"hook_points": ["1.resid_post"]}})
    run = Run(store.stage.path.parent.parent, recipe)
    with pytest.raises(StoreError, match=r"prepare\.consume deleted these activations"):
        prepare.check(run, ["prepare"], "prepare")
    prepare.check(run, ["prepare"], "capture")


@pytest.mark.slow
@pytest.mark.parametrize("consume", [False, True])
def test_ranks_killed_ten_times_leave_the_files_of_one_process(tmp_path: Path, consume: bool) -> None:
    store = make_store(tmp_path, sentences=9000, d=24, per_shard=30)
    whole = Stage(tmp_path / "batches" / "whole", "batches", {"seed": 3}, {})
    recipe = PrepareRecipe(validation_fraction=FRACTION, geometric_median=True)
    preparation.Preparation(store.stage, whole, recipe, 3, Plan(60, 8)).make()
    make_with_kills_of_ranks(
        f"""
        from pathlib import Path
        from monosem.recipe import PrepareRecipe
        from monosem.run import Stage
        from monosem.store import preparation
        run = Path({str(tmp_path)!r})
        FOLDER = run / "batches" / "killed"
        def make(ranks):
            source = Stage(run / "activations" / "1.resid_post", "activations", {{"made": "for a test"}}, {{}})
            stage = Stage(FOLDER, "batches", {{"seed": 3}}, {{}})
            keys = dict(validation_fraction={FRACTION}, workers=2, consume={consume}, geometric_median=True)
            preparation.Preparation(source, stage, PrepareRecipe(**keys), 3, preparation.Plan(60, 8), ranks).make()
        """,
        longest=0.15,
    )
    found, expected = without_times(tmp_path / "batches" / "killed"), without_times(whole.path)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    rows = [read_all(tmp_path / "batches" / "killed", part) for part in ("train-", "validation-")]
    assert torch.equal(torch.cat([part.token for part in rows]).sort().values, store.rows.token)
