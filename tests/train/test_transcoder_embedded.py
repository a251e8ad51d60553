"""recipes/transcoder.toml on less text: two hook points of the embedded model, one captured pass, trained, measured."""

from pathlib import Path

import pytest

from monosem import pipeline, recipe
from monosem.evaluate import stage as evaluation
from monosem.recipe import Recipe
from monosem.run import Run


@pytest.mark.model
@pytest.mark.slow
def test_the_recipe_learns_what_an_mlp_does(tmp_path: Path) -> None:
    full = recipe.load(Path(__file__).parents[2] / "recipes" / "transcoder.toml")
    less = {
        "corpus": full.corpus.model_dump() | {"max_documents": 150},
        "sae": full.sae.model_dump() | {"n": 1024},
        "train": full.train.model_dump() | {"batch": 512, "validation_tokens": 1024},
        "evaluate": full.evaluate.model_dump() | {"sentences": 30, "steering_latents": 2, "steering_controls": 2},
    }
    run = Run(tmp_path / "run", Recipe.model_validate(full.model_dump() | less))
    pipeline.make(run, ("sentences", "capture", "prepare", "train", "codes", "examples", "evaluate"))
    found = evaluation.read(run.folder("evaluation") / "evaluation.json")
    baselines = found["baselines"]
    assert found["fvu"] < baselines["affine"]["fvu"] < baselines["random_sae"]["fvu"]
    assert 0.8 < found["ce_recovered_zero"] <= 1.05
    assert found["kl_sae"] < 0.3 * found["kl_zero"]
