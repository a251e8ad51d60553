"""On the embedded model: trained live or from a store, an SAE is as good, up to what another seed changes."""

from pathlib import Path

import pytest

from monosem import pipeline, training
from monosem.recipe import Recipe
from monosem.run import Run
from monosem.sae import files
from monosem.store import loader
from monosem.train.validation import validate

HOOK_POINT = "6.resid_post"


def made(folder: Path, name: str, source: str, seed: int) -> Run:
    """A run on 400 articles, with sentences, activations and batches of the first one."""
    wanted = {
        "name": name,
        "corpus": {"max_documents": 400},
        "capture": {"hook_points": [HOOK_POINT]},
        "sae": {"n": 1024, "k": 16, "normalisation": "dataset", "encoder_norm": 0.3},
        "train": {
            "source": source,
            "seed": seed,
            "batch": 1024,
            "epochs": 2,
            "lr": 1e-3,
            "betas": [0.9, 0.999],
            "k_aux": 64,
            "dead_tokens": 100_000,
            "validations": 1,
            "validation_tokens": 2048,
            "buffer": 16_384,
        },
    }
    run = Run(folder / name, Recipe.model_validate(wanted))
    run.path.mkdir()
    for borrowed in ("sentences", "activations", "batches") if name != "first" else ():
        (run.path / borrowed).symlink_to(folder / "first" / borrowed)
    if name == "first":
        pipeline.make(run, ("sentences", "capture", "prepare"))
    training.make(run)
    return run


@pytest.mark.model
@pytest.mark.slow
def test_live_and_stored_give_the_same_fvu_up_to_the_seed(tmp_path: Path) -> None:
    runs = [
        made(tmp_path, name, source, seed)
        for name, source, seed in (
            ("first", "stored", 0),
            ("second", "stored", 1),
            ("live0", "live", 0),
            ("live1", "live", 1),
        )
    ]
    batches = runs[0].folder("batches", HOOK_POINT)
    fvu = [validate(files.load(run.sae_folder), loader.validation(batches, 1024)).fvu for run in runs]
    steps = [training.open_stage(run).manifest.counts["steps"] for run in runs]
    stored, live = (fvu[0] + fvu[1]) / 2, (fvu[2] + fvu[3]) / 2
    noise = max(abs(fvu[0] - fvu[1]), abs(fvu[2] - fvu[3]))
    assert abs(live - stored) < max(2 * noise, 0.01 * stored)
    assert stored < 0.6
    assert min(steps) > 0.97 * max(steps)
