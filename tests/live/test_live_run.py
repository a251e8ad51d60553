"""Training straight from the language model: no store, the same quality, exact resume, and what is refused."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from interrupted import contents, make_with_kills

from monosem import encoding, pipeline, recipe, training
from monosem.errors import RecipeError, RunError
from monosem.interpret import cards, tables
from monosem.interpret import encoding as interpreting
from monosem.interpret.codes import Codes, StoredCodes
from monosem.live import parts as live_parts
from monosem.progress import read_metrics
from monosem.recipe import Recipe
from monosem.run import Run
from monosem.sae import files
from monosem.store import shards
from monosem.sweep import axes
from monosem.sweep import stage as sweep


def asking(plain: Recipe, name: str, source: str, **train) -> Recipe:
    changes = {
        "name": name,
        "corpus": plain.corpus.model_dump() | {"max_documents": 500},
        "train": plain.train.model_dump() | {"source": source, "buffer": 4096, "validation_tokens": 4000} | train,
    }
    return Recipe.model_validate(plain.model_dump() | changes)


@pytest.fixture(scope="module")
def runs(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The same recipe with both sources; `live` made by the command that makes everything."""
    folder, plain = tmp_path_factory.mktemp("live"), recipe.load(tiny_recipe)
    made = {name: Run(folder / name, asking(plain, name, name)) for name in ("stored", "live")}
    pipeline.make(made["stored"], ("sentences", "capture", "prepare", "train"))
    pipeline.make(made["live"])
    return made


def beside(run: Run, path: Path, **train) -> Run:
    """Another run on the same sentences."""
    path.mkdir()
    (path / "sentences").symlink_to(run.path / "sentences")
    return Run(path, asking(run.recipe, run.recipe.name, "live", **train))


def joined(parts: Iterable[Codes]) -> Codes:
    return Codes(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def fvu(run: Run) -> float:
    return [row["validation_fvu"] for row in read_metrics(run.path / "metrics.jsonl") if "validation_fvu" in row][-1]


def test_no_activation_is_written(runs: dict[str, Run]) -> None:
    made = {path.name for path in runs["live"].path.iterdir() if path.is_dir()}
    assert made == {"coactivation", "codes", "examples", "explanations", "groups", "sae", "sentences", "tracking"}


def test_codes_are_those_of_stored_activations(runs: dict[str, Run]) -> None:
    live, sae = StoredCodes(encoding.open_stage(runs["live"])), files.load(runs["live"].sae_folder)
    own = joined(live.read(shard) for shard in live.shards)
    store = shards.open_shards(runs["stored"].folder("activations", runs["stored"].recipe.hook_point))
    stored = joined(interpreting.encode(sae, shards.read(path)) for path in store.paths)
    for column in ("sentence", "length", "position", "token"):
        assert np.array_equal(getattr(own, column), getattr(stored, column)), column
    entries = [
        dict(zip(zip(codes.row(), codes.latent, strict=True), codes.value, strict=True)) for codes in (own, stored)
    ]
    both = entries[0].keys() & entries[1].keys()
    assert len(both) > 0.99 * max(map(len, entries))  # other batches of the model: near ties may fall differently
    np.testing.assert_allclose([entries[0][at] for at in both], [entries[1][at] for at in both], rtol=0.05, atol=0.05)


def test_examples_and_explanations_come_without_a_store(runs: dict[str, Run]) -> None:
    latents = pq.read_table(runs["live"].folder("examples") / tables.LATENTS)
    assert (
        latents["fire_count"].to_numpy().sum()
        == StoredCodes(encoding.open_stage(runs["live"])).manifest.counts["active"]
    )
    told = (runs["live"].folder("explanations") / cards.EXPLANATIONS).read_text(encoding="utf-8").splitlines()
    assert len(told) == np.count_nonzero(latents["fire_count"].to_numpy())


@pytest.mark.slow
def test_killed_encoding_ends_with_the_same_bytes(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = (beside(runs["live"], tmp_path / name) for name in ("whole", "parts"))
    for run in (whole, parts):
        (run.path / "sae").symlink_to(runs["live"].path / "sae")
    monkeypatch.setattr(live_parts, "PART_TOKENS", 4096)
    encoding.make(whole)
    codes = StoredCodes(encoding.open_stage(whole))
    assert len(codes.shards) > 2
    at_once = StoredCodes(encoding.open_stage(runs["live"]))
    one, other = (joined(each.read(shard) for shard in each.shards) for each in (codes, at_once))
    for column in ("sentence", "length", "position", "token"):
        assert np.array_equal(getattr(one, column), getattr(other, column)), column
    parts.save_recipe()
    kills = make_with_kills(
        f"""
        from pathlib import Path
        from monosem.run import Run
        from monosem import encoding
        from monosem.live import parts
        import torch
        torch.set_num_threads(1)
        parts.PART_TOKENS = 4096

        def make():
            encoding.make(Run.open(Path({str(parts.path)!r})))
        """
    )
    assert kills > 2
    assert contents(parts.path / "codes") == contents(whole.path / "codes")


def test_it_learns_as_much_as_from_a_store(runs: dict[str, Run]) -> None:
    assert fvu(runs["live"]) == pytest.approx(fvu(runs["stored"]), rel=0.03)
    one, other = (files.load(run.sae_folder).config for run in (runs["live"], runs["stored"]))
    assert one == dataclasses.replace(other, norm_threshold=one.norm_threshold)
    assert one.norm_threshold == other.norm_threshold
    steps = [training.open_stage(run).manifest.counts["steps"] for run in runs.values()]
    assert steps[0] == pytest.approx(steps[1], rel=0.05)


def test_two_runs_are_equal_and_the_seed_decides(runs: dict[str, Run], tmp_path: Path) -> None:
    def again(name: str, **train) -> bytes:
        run = beside(runs["live"], tmp_path / name, epochs=0.5, **train)
        training.make(run)
        return (run.sae_folder / files.WEIGHTS).read_bytes()

    assert again("one") == again("two") != again("three", seed=5)


@pytest.mark.slow
def test_killed_training_ends_with_the_same_bytes(runs: dict[str, Run], tmp_path: Path) -> None:
    whole, parts = (beside(runs["live"], tmp_path / name, epochs=1.0) for name in ("whole", "parts"))
    training.make(whole)
    parts.save_recipe()
    kills = make_with_kills(
        f"""
        from pathlib import Path
        from monosem.run import Run
        from monosem import training
        import torch
        torch.set_num_threads(1)

        def make():
            training.make(Run.open(Path({str(parts.path)!r})))
        """
    )
    assert kills > 2
    assert contents(parts.path / "sae") == contents(whole.path / "sae")


@pytest.mark.slow
def test_a_transcoder_and_a_sweep_can_be_live(runs: dict[str, Run], tmp_path: Path) -> None:
    points = {"hook_points": ("1.resid_mid.norm", "1.mlp_out"), "max_norm_ratio": 1.4}
    plain = runs["live"].recipe
    plain = Recipe.model_validate(plain.model_dump() | {"capture": plain.capture.model_dump() | points})
    wanted = asking(plain, "sweep", "live", target_hook_point="1.mlp_out", epochs=2)
    (tmp_path / "sentences").symlink_to(runs["live"].path / "sentences")
    rows = sweep.make(tmp_path, axes.read(wanted, ["--sae.k", "2,8"]))
    assert not (tmp_path / "activations").exists()
    by_name = {row["name"]: row for row in rows}
    assert by_name["k8"]["fvu"] < by_name["k2"]["fvu"] < 1
    assert by_name["k8"]["kl"] is not None


def test_what_does_not_fit_is_refused(runs: dict[str, Run], tmp_path: Path) -> None:
    small = Run(runs["live"].path, asking(runs["live"].recipe, "live", "live", buffer=700))
    with pytest.raises(RecipeError, match=r"train\.buffer = 700 is too small: give at least two batches"):
        training.open_source(small)
    with pytest.raises(RunError, match="sentences has not been made"):
        training.open_source(Run(tmp_path, runs["live"].recipe))
    with pytest.raises(RunError, match=r"made with another recipe \(live: "):
        training.open_stage(Run(runs["live"].path, runs["stored"].recipe))


def test_the_stages_that_read_a_store_can_be_asked_for_by_name(runs: dict[str, Run]) -> None:
    made = pipeline.make(runs["live"], ("capture",))
    assert list(made) == ["capture"]
    assert made["capture"].complete
