"""A transcoder through a whole run: two hook points captured, trained, killed and resumed, measured, shown, swept."""

import json
from pathlib import Path

import pytest
import torch
from interrupted import contents, make_with_kills

from monosem import pipeline, recipe
from monosem.errors import ModelError, RecipeError, RunError
from monosem.evaluate import stage as evaluation
from monosem.progress import read_metrics
from monosem.recipe import Recipe
from monosem.run import Run
from monosem.sae import files
from monosem.steering import Edit, Steering
from monosem.store import activations, shards
from monosem.sweep import axes
from monosem.sweep import stage as sweep
from monosem.train import loop

SOURCE, OUTPUT = "1.resid_mid.norm", "1.mlp_out"


def asking(plain: Recipe, **train) -> Recipe:
    changes = {
        "name": "coder",
        "capture": plain.capture.model_dump() | {"hook_points": (SOURCE, OUTPUT), "max_norm_ratio": 1.4},
        "corpus": plain.corpus.model_dump() | {"max_documents": 700},
        "sae": plain.sae.model_dump() | {"skip": True},
        "train": plain.train.model_dump() | {"target_hook_point": OUTPUT, "epochs": 4} | train,
    }
    return Recipe.model_validate(plain.model_dump() | changes)


@pytest.fixture(scope="module")
def run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run."""
    run = Run(tmp_path_factory.mktemp("coder") / "coder", asking(recipe.load(tiny_recipe)))
    pipeline.make(run)
    return run


def test_what_prepare_shuffles_still_pairs(run: Run) -> None:
    """Some activations of one hook point have too large a norm, and are gone at both."""
    dropped = [activations.open_stage(run, name).manifest.counts for name in (SOURCE, OUTPUT)]
    assert dropped[0]["dropped_norm"] < dropped[1]["dropped_norm"]
    for prefix in ("train-", "validation-"):
        own, target = (shards.open_shards(run.folder("batches", name), prefix) for name in (SOURCE, OUTPUT))
        assert [shard.name for shard in own.shards] == [shard.name for shard in target.shards]
        for one, other in zip(own.paths, target.paths, strict=True):
            mine, theirs = shards.read(one), shards.read(other)
            for name in ("sentence", "position", "token"):
                assert torch.equal(getattr(mine, name), getattr(theirs, name))


def test_it_learns_its_target(run: Run) -> None:
    sae = files.load(run.sae_folder)
    assert sae.config.output.hook_point == OUTPUT
    assert sae.config.hook_point == SOURCE
    assert sae.W_skip is not None
    found = evaluation.read(run.folder("evaluation") / "evaluation.json")
    assert found["fvu"] < found["baselines"]["affine"]["fvu"] < 1
    assert found["fvu"] < found["baselines"]["random_sae"]["fvu"]
    assert found["ce_recovered_zero"] > found["baselines"]["random_sae"]["ce_recovered_zero"]
    assert "pca" not in found["baselines"]
    validations = [row["validation_fvu"] for row in read_metrics(run.path / "metrics.jsonl") if "validation_fvu" in row]
    assert validations[-1] == pytest.approx(found["fvu"], rel=0.05)
    page = (run.path / "report.html").read_text()
    assert f"<code>{SOURCE}</code> to <code>{OUTPUT}</code>" in page
    assert "affine map" in page


def test_its_run_completes_text(run: Run) -> None:
    from monosem.completion import Completer
    from monosem.lm.generate import Sampling

    completer = Completer(run)
    density = evaluation.read(run.folder("evaluation") / "steering.json")["latents"]
    edits = [Edit(density[0]["latent"], 8.0, "clamp", "max")]
    plain, steered = completer.complete(["The ship"], edits, Sampling(max_new_tokens=8), compare=True, show_latents=2)
    assert any(token.latents for token in plain.tokens)
    model = completer.model
    with model.hooks(Steering(completer.sae, edits, completer._maxima).hooks()):
        steps = model.generate([model.tokenizer.encode_prompt("The ship")], Sampling(max_new_tokens=8))
        assert [step.ids[0] for step in steps] == [token.id for token in steered.tokens]


@pytest.mark.slow
def test_killed_training_ends_with_the_same_bytes(run: Run, tmp_path: Path) -> None:
    for name in ("sentences", "activations", "batches"):
        (tmp_path / name).symlink_to(run.path / name)
    (tmp_path / "recipe.toml").write_text((run.path / "recipe.toml").read_text())
    kills = make_with_kills(
        f"""
        from pathlib import Path
        from monosem.run import Run
        from monosem import training
        import torch
        torch.set_num_threads(1)

        def make():
            training.make(Run.open(Path({str(tmp_path)!r})))
        """
    )
    assert kills > 2
    assert contents(tmp_path / "sae") == contents(run.path / "sae")


@pytest.mark.slow
def test_a_sweep_of_transcoders_shares_one_pass(run: Run, tmp_path: Path) -> None:
    for name in ("sentences", "activations", "batches"):
        (tmp_path / name).symlink_to(run.path / name)
    rows = sweep.make(tmp_path, axes.read(run.recipe, ["--sae.skip", "true,false", "--train.epochs", "2"]))
    by_name = {row["name"]: row for row in rows}
    assert by_name["skip-true"]["fvu"] < by_name["skip-false"]["fvu"]
    assert all(row["ce_recovered_zero"] is not None for row in rows)


def test_recipes_that_do_not_fit_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train.target_hook_point = '2.mlp_out' is not among"):
        asking(run.recipe, target_hook_point="2.mlp_out")
    with pytest.raises(RecipeError, match="is what is read as well"):
        asking(run.recipe, hook_point=OUTPUT)
    with pytest.raises(RecipeError, match=r"sae\.skip goes with a transcoder"):
        asking(run.recipe, target_hook_point=None)
    turned = asking(run.recipe, hook_point=OUTPUT, target_hook_point=SOURCE)
    with pytest.raises(ModelError, match=r"1\.resid_mid\.norm comes before 1\.mlp_out"):
        pipeline.make(Run(tmp_path / "turned", turned))
    plain = run.recipe.model_copy(update={"sae": run.recipe.sae.model_copy(update={"skip": False})})
    plain = plain.model_copy(update={"train": plain.train.model_copy(update={"target_hook_point": None})})
    with pytest.raises(RunError, match=r"made with another recipe \(sae\.skip"):
        loop.open_stage(Run(run.path, plain))


def test_runs_without_a_target_keep_their_fingerprint(tiny_recipe: Path) -> None:
    plain = recipe.load(tiny_recipe)
    text = json.dumps([plain.sae.fingerprint_part(), plain.train.fingerprint_part()])
    assert "target_hook_point" not in text
    assert "skip" not in text
