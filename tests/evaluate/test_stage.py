"""The stage `evaluate` on a tiny run: its object, its table, resuming, and what it refuses."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from interrupted import contents

from monosem import pipeline, recipe
from monosem.errors import RunError
from monosem.evaluate import held_out, stage
from monosem.lm.source import open_model
from monosem.run import Run
from monosem.store import split

PARTS = ("reconstruction.json", "downstream.json", "latents.parquet", "steering.json", "evaluation.json")


@pytest.fixture(scope="module")
def finished(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny run made up to its evaluation."""
    run = Run(tmp_path_factory.mktemp("runs") / "tiny", recipe.load(tiny_recipe))
    pipeline.make(run, ("sentences", "capture", "prepare", "train", "examples", "evaluate"))
    return run


@pytest.fixture
def copy(finished: Run, tmp_path: Path) -> Run:
    """The same run, to be broken."""
    shutil.copytree(finished.path, tmp_path / "tiny")
    return Run(tmp_path / "tiny", finished.recipe)


def evaluation(run: Run) -> dict:
    return stage.read(run.folder("evaluation") / "evaluation.json")


def test_every_figure_is_there_and_in_its_range(finished):
    found = evaluation(finished)
    assert 0 < found["fvu"] < 1
    assert 0 < found["l0"] <= finished.recipe.sae.k
    assert found["ce_clean"] > 0
    for scope in (found, found["all_tokens"]):
        for ablation in ("zero", "mean"):
            expected = (scope[f"ce_{ablation}"] - scope["ce_sae"]) / (scope[f"ce_{ablation}"] - scope["ce_clean"])
            assert scope[f"ce_recovered_{ablation}"] == expected
            expected = (scope[f"kl_{ablation}"] - scope["kl_sae"]) / scope[f"kl_{ablation}"]
            assert scope[f"kl_recovered_{ablation}"] == expected
        assert -1 <= scope["cosine"] <= 1
        assert scope["norm_ratio"] > 0
    assert found["n_edited"] <= found["n_tokens"] == found["all_tokens"]["n_tokens"]
    assert found["n_predictions"] == found["n_tokens"] - found["n_sentences"]
    json.dumps(found, allow_nan=False)


def test_the_trained_sae_beats_its_baselines(finished):
    found = evaluation(finished)
    random, pca = found["baselines"]["random_sae"], found["baselines"]["pca"]
    assert found["fvu"] < min(random["fvu"], pca["fvu"])
    assert found["kl_sae"] < random["kl"]
    assert pca["components"] == finished.recipe.sae.k < pca["components_at_sae_fvu"]
    assert {"ce", "kl", "ce_recovered_zero", "kl_recovered_mean", "l0", "cosine"} <= random.keys()


def test_firing_figures_agree_with_the_examples(finished):
    found = evaluation(finished)
    density = pq.read_table(finished.folder("examples") / "latents.parquet")["density"].to_numpy()
    manifest = json.loads((finished.folder("activations", "1.resid_post") / "manifest.json").read_text())
    assert found["dead_fraction"] == np.mean(density == 0)
    assert found["dense_fraction"] == np.mean(density > 0.1)
    assert found["dead_window_tokens"] == manifest["counts"]["rows"]
    assert sum(found["density_histogram"]["counts"]) == np.sum(density > 0)
    assert len(found["density_histogram"]["log10_edges"]) == len(found["density_histogram"]["counts"]) + 1


def test_only_held_out_sentences_are_read(finished):
    numbers = held_out.numbers(finished)
    fraction, seed = finished.recipe.prepare.validation_fraction, finished.recipe.seed
    assert split.is_validation(numbers, fraction, seed).all()
    assert len(numbers) == len(set(numbers.tolist())) == finished.recipe.evaluate.sentences


def test_the_table_has_every_live_latent(finished):
    table = pq.read_table(finished.folder("evaluation") / "latents.parquet").to_pydict()
    seen = pq.read_table(finished.folder("examples") / "latents.parquet")
    live = seen["latent"].to_numpy()[seen["fire_count"].to_numpy() > 0]
    assert table["latent"] == live.tolist()
    assert all(0 <= score <= 1 for score in table["output_score"])
    tokenizer = open_model(finished.recipe.model).tokenizer
    for raised, ids, lowered in zip(table["raised"], table["raised_ids"], table["lowered_ids"], strict=True):
        assert raised == tokenizer.pieces(ids)
        assert len(ids) == 20
        assert not set(ids) & set(lowered)


def test_steering_tries_the_latents_with_the_highest_output_scores(finished):
    steering = evaluation(finished)["steering"]
    table = pq.read_table(finished.folder("evaluation") / "latents.parquet").to_pydict()
    best = sorted(zip(table["output_score"], table["latent"], strict=True), key=lambda row: (-row[0], row[1]))
    assert [row["latent"] for row in steering["latents"]] == [latent for _, latent in best[:3]]
    assert steering["of"] == 3
    assert steering["wins"] == sum(row["factor"] > row["controls_max"] for row in steering["latents"])
    for row in steering["latents"]:
        assert row["controls_median"] <= row["controls_max"]
        assert math.isfinite(row["perplexity_clean"])
        assert math.isfinite(row["perplexity_steered"])


@pytest.mark.parametrize("kept", range(len(PARTS)))
def test_an_interrupted_stage_ends_with_the_same_bytes(copy, kept):
    folder = copy.folder("evaluation")
    expected = contents(folder)
    shutil.rmtree(folder)
    opened = stage.open_stage(copy)
    opened.begin()
    for name in PARTS[:kept]:
        (folder / name).write_bytes(expected[name])
        opened.add_shard(name, 1)
    stage.make(copy)
    assert contents(folder) == expected


def test_a_complete_stage_is_skipped(copy):
    (copy.folder("evaluation") / "evaluation.json").write_text("{}")
    stage.make(copy)
    assert evaluation(copy) == {}


def test_another_recipe_is_refused(finished):
    changed = finished.recipe.evaluate.model_copy(update={"sentences": 21})
    with pytest.raises(RunError, match="sentences: the files have 20, the recipe says 21"):
        stage.open_stage(Run(finished.path, finished.recipe.model_copy(update={"evaluate": changed})))


def test_a_missing_stage_is_named(finished, tmp_path):
    with pytest.raises(RunError, match="has not been made"):
        stage.make(Run(tmp_path, finished.recipe))
