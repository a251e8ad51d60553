"""Estimates against the reference's figures, against what a small run really makes, and what they refuse."""

import json
from pathlib import Path

import pytest

from monosem import capture, estimate, recipe
from monosem.corpus import sentences
from monosem.errors import RecipeError
from monosem.estimate import workload
from monosem.estimate.machine import GB, GPUS, Machine, machine
from monosem.recipe import Recipe
from monosem.run import Run
from monosem.store import prepare

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL_CPU = Machine("CPU", 16 * GB, 200e9, 100e9, 10 * GB, 0.0, is_cpu=True)


def loaded(name: str, **sections: dict) -> Recipe:
    found = recipe.load(RECIPES / f"{name}.toml")
    changed = {key: getattr(found, key).model_copy(update=value) for key, value in sections.items()}
    return found.model_copy(update=changed)


def stage(plan: estimate.Plan, name: str) -> estimate.Cost:
    (found,) = (cost for cost in plan.costs if cost.stage == name)
    return found


@pytest.mark.parametrize(("dtype", "terabytes"), [("bfloat16", 4.3), ("int8", 2.2)])
def test_the_reference_system_asks_for_its_terabytes(dtype: str, terabytes: float) -> None:
    plan = estimate.plan(loaded("llama-3.2-3b-reference", capture={"dtype": dtype}), machine("rtx4090", 8))
    assert round(stage(plan, "capture").disk / 1e12, 1) == terabytes
    assert plan.work.rows == pytest.approx(700e6, rel=0.01)
    assert stage(plan, "train").memory < 24 * GB
    assert estimate.refusals(plan, loaded("llama-3.2-3b-reference"), None) == []


def test_what_does_not_fit_is_named_with_the_dials_that_mend_it() -> None:
    large = loaded("llama-3.2-3b-262k")
    plan = estimate.plan(large, machine("rtx4090", 1))
    (line,) = estimate.refusals(plan, large, None)
    assert line.startswith("train: ")
    assert "RTX 4090 has 24 GB; more --gpus, a smaller sae.n" in line
    assert estimate.refusals(estimate.plan(large, machine("h100", 1)), large, None) == []
    assert estimate.refusals(estimate.plan(large, machine("rtx4090", 8)), large, None) == []

    reference = loaded("llama-3.2-3b-reference")
    plan = estimate.plan(reference, machine("h100", 8))
    (line,) = estimate.refusals(plan, reference, 1e12)
    assert "1,000.0 GB are free; prepare.consume = true (one copy less), capture.dtype = 'int8' (half)" in line
    assert estimate.refusals(plan, reference, 20e12) == []


def test_devices_share_the_work_and_the_latents() -> None:
    wanted = loaded("llama-3.1-8b")
    one, eight = (estimate.plan(wanted, GPUS["h100"]._replace(devices=count)) for count in (1, 8))
    assert one.sent == 0
    assert eight.sent > 0
    assert stage(eight, "train").memory < stage(one, "train").memory / 2
    assert stage(eight, "train").seconds < stage(one, "train").seconds
    assert stage(eight, "capture").disk == stage(one, "capture").disk


def test_a_corpus_of_unknown_size_is_an_error() -> None:
    wanted = loaded("llama-3.2-1b", corpus={"sources": ("hf:someone/texts",), "max_sentences": None})
    with pytest.raises(RecipeError, match=r"hf:someone/texts.*set corpus\.max_sentences"):
        workload.measure(wanted)
    known = loaded("llama-3.2-1b", corpus={"max_sentences": None})
    assert workload.measure(known).sentences > 100_000_000


def test_machines() -> None:
    with pytest.raises(RecipeError, match="--gpus 0: expected at least 1"):
        machine("h100", 0)
    with pytest.raises(RecipeError, match="--gpus 4: of which kind"):
        machine(None, 4)
    here = machine(None, 1)
    assert here.is_cpu
    assert here.bf16 > 1e9
    assert here.fp32 > 1e9
    assert here.bandwidth > 1e8


@pytest.mark.model
def test_a_small_run_takes_the_disk_that_was_foreseen(tmp_path: Path) -> None:
    wanted = loaded("demo", corpus={"max_documents": 150})
    plan = estimate.plan(wanted, SMALL_CPU)
    run = Run(tmp_path / "run", wanted)
    made = [sentences.make(run), capture.make(run), prepare.make(run)]
    assert plan.work.basis == "read"
    assert plan.work.sentences == made[0].manifest.counts["sentences"]
    assert plan.work.tokens == made[1].manifest.counts["tokens"]
    for name, folder in (("capture", "activations"), ("prepare", "batches")):
        size = sum(file.stat().st_size for file in (run.path / folder).rglob("*.safetensors"))
        assert stage(plan, name).disk == pytest.approx(size, rel=0.05), name


@pytest.mark.model
def test_a_corpus_that_is_sampled_comes_close(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = loaded("demo", corpus={"max_documents": 1000})
    whole = workload.measure(wanted)
    monkeypatch.setattr(workload, "WHOLE", 60_000)
    sampled = workload.measure(wanted)
    assert (whole.basis, sampled.basis) == ("read", "sampled")
    assert sampled.tokens == pytest.approx(whole.tokens, rel=0.1)
    some = workload.measure(loaded("demo", corpus={"max_documents": 1000, "max_sentences": 500}))
    assert some.sentences == 500
    assert some.tokens == pytest.approx(500 * whole.tokens / whole.sentences, rel=0.1)


def test_the_plan_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    from monosem.cli import main

    main(["estimate", str(RECIPES / "llama-3.2-1b.toml"), "--gpu", "rtx4090", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["does_not_fit"] == []
    assert {cost["stage"] for cost in found["stages"]} >= {"capture", "train"}
    with pytest.raises(SystemExit) as ended:
        main(["estimate", str(RECIPES / "llama-3.2-3b-262k.toml"), "--gpu", "rtx4090"])
    assert ended.value.code == 2
    assert "does not fit: train:" in capsys.readouterr().err
