"""Which latents another seed found again: against the dense cosines, which runs count, and the command."""

import json
from pathlib import Path

import pytest
import torch
from random_model import HOOK_POINT, N, random_sae

from monosem import cli
from monosem.errors import RunError
from monosem.interpret import seeds, stability
from monosem.recipe import Recipe
from monosem.run import Run
from monosem.sae import files
from monosem.sae.autoencoder import Autoencoder

PLANTED = 7  # latents of the second SAE that the first one has, in another order


def trained(path: Path, sae: Autoencoder, **train: object) -> Run:
    """A run folder with nothing but its SAE."""
    recipe = Recipe.model_validate({"name": path.name, "capture": {"hook_points": [HOOK_POINT]}, "train": train})
    run = Run(path, recipe)
    path.mkdir(parents=True)
    run.save_recipe()
    stage = run.stage(run.folder("sae"), {"seed": str(path)})
    stage.begin()
    files.save(sae, stage.path / "final")
    stage.finish()
    return run


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Run, Run]:
    one, other = random_sae(seed=0), random_sae(seed=1)
    with torch.no_grad():
        other.W_dec[-PLANTED:] = one.W_dec[:PLANTED].flip(0)
    return trained(tmp_path / "one", one, seed=0), trained(tmp_path / "one" / "sweep" / "seed1", other, seed=1)


def test_cosines_are_the_largest_of_all_pairs(pair: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "ROWS", 5)
    one, other = pair
    seeds.make(one)
    rows = [torch.nn.functional.normalize(files.load(run.sae_folder).W_dec.detach(), dim=1) for run in (one, other)]
    expected = (rows[0] @ rows[1].T).amax(1)
    found = stability.of(one.path, range(N))
    for latent in range(N):
        assert found[latent].cosines == pytest.approx([float(expected[latent])], abs=1e-6)
        assert (found[latent].warning is None) == (expected[latent] >= stability.SAME)
    assert all(found[latent].warning is None for latent in range(PLANTED))


def test_only_runs_that_differ_in_the_seed_alone_count(pair: tuple[Run, Run], tmp_path: Path) -> None:
    one, other = pair
    wider = trained(tmp_path / "wider", random_sae(seed=2), seed=2, batch=64)
    same = trained(tmp_path / "same", random_sae(seed=0), seed=0)
    (tmp_path / "no-run").mkdir()
    assert [found.name for found in seeds.beside(one)] == ["sweep/seed1"]
    assert [found.name for found in seeds.beside(other)] == ["../.."]
    with pytest.raises(RunError, match=r"train.batch is 64, not 8192"):
        seeds.make(one, [wider.path])
    with pytest.raises(RunError, match="it has the same seed"):
        seeds.make(one, [same.path])
    with pytest.raises(RunError, match="no run beside it or in its sweep differs in the seed alone; train one with"):
        seeds.make(wider)


def test_an_sae_that_is_trained_anew_is_compared_anew(pair: tuple[Run, Run]) -> None:
    one, other = pair
    made = seeds.make(one).path / "latents.parquet"
    before = made.stat().st_mtime_ns
    seeds.make(one)
    assert made.stat().st_mtime_ns == before
    other.remove(["sae"])
    stage = other.stage(other.folder("sae"), {"seed": "once more"})
    stage.begin()
    files.save(random_sae(seed=5), stage.path / "final")
    stage.finish()
    seeds.make(one)
    assert made.stat().st_mtime_ns > before
    one.remove(["sae"])
    assert stability.of(one.path, [0]) == {}
    with pytest.raises(RunError, match="has no trained SAE; make it with: monosem train"):
        seeds.make(one)


def test_the_command(pair: tuple[Run, Run], capsys: pytest.CaptureFixture[str]) -> None:
    one, other = pair
    cli.main(["seeds", str(one.path), "--json"])
    told = json.loads(capsys.readouterr().out)
    figures = told["others"]["sweep/seed1"]
    assert told["latents"] == N
    assert figures["shared"] == pytest.approx(PLANTED / N)
    assert figures["seed"] == 1
    cli.main(["seeds", str(one.path), str(other.path)])
    shown = capsys.readouterr().out
    assert "sweep/seed1" in shown
    assert f"{100 * figures['shared']:.1f} %" in shown
    with pytest.raises(SystemExit):
        cli.main(["seeds", str(one.path), "nowhere"])
    assert "nowhere: not a run folder" in capsys.readouterr().err
