"""The stage in a run: its files, what reads them, and that it changes nothing where it is left out."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from interrupted import contents, make_with_kills
from torchrun import finish, script, start

from monosem import finetune, pipeline, recipe
from monosem.errors import RecipeError, RunError, TrainingError
from monosem.evaluate import report
from monosem.evaluate import stage as evaluation
from monosem.finetune import stage as stage_module
from monosem.finetune.reader import Batch, Place, Reader
from monosem.interpret import encoding, examples
from monosem.progress import read_metrics
from monosem.recipe import Recipe
from monosem.run import Run
from monosem.sae import files
from monosem.steering import load_sae
from monosem.store import activations
from monosem.train import loop

UP_TO_TRAIN = ("sentences", "capture", "prepare", "train")
TUNED = {"tokens": 4000, "batch_tokens": 250, "lr": 3e-3}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> Run:
    """A run without the stage, up to training."""
    run = Run(tmp_path_factory.mktemp("plain") / "tiny", recipe.load(tiny_recipe))
    pipeline.make(run, (*UP_TO_TRAIN, "finetune"))
    return run


@pytest.fixture(scope="module")
def tuned(plain: Run) -> Run:
    """The same folder gone on with: the recipe asks for fine-tuning."""
    run = Run(plain.path, asking(plain.recipe))
    pipeline.make(run, ("finetune",))
    return run


def asking(plain: Recipe, **changes) -> Recipe:
    return Recipe.model_validate(plain.model_dump() | {"finetune": TUNED | changes})


def copied(run: Run, folder: Path) -> Run:
    """The run's finished stages before this one, in another folder."""
    for name in ("sentences", "activations", "batches", "sae"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(run.path / name)
    return Run(folder, run.recipe)


def test_it_leaves_an_sae_and_its_figures(tuned: Run) -> None:
    stage = finetune.open_stage(tuned)
    assert stage.complete
    counts = stage.manifest.counts
    assert counts["steps"] == 4000 // 250
    assert 4000 * 0.95 < counts["tokens"] < 4000 * 1.2
    assert counts["kl_last"] < counts["kl_first"]
    assert counts["fvu_last"] < 1.2 * counts["fvu_first"]
    before, after = files.load(tuned.path / "sae" / "final"), files.load(tuned.path / "finetune" / "final")
    assert before.config == after.config
    assert not torch.equal(before.W_dec, after.W_dec)
    assert files.read_metadata(tuned.sae_folder)["finetuned"]["steps"] == counts["steps"]
    rows = read_metrics(tuned.path / "finetune" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, counts["steps"] + 1))
    assert rows[-1]["tokens"] == counts["tokens"]
    assert rows[0]["loss"] == pytest.approx(rows[0]["main"] + rows[0]["kl"] * rows[0]["kl_weight"])
    assert not list((tuned.path / "finetune").glob("step-*"))


def test_everything_behind_it_reads_its_sae(tuned: Run) -> None:
    assert tuned.sae_folder == tuned.path / "finetune" / "final"
    assert finetune.sae_stage(tuned).path == tuned.path / "finetune"
    assert torch.equal(load_sae(tuned.path).W_dec, files.load(tuned.sae_folder).W_dec)
    made = pipeline.make(tuned, ("examples",))
    assert set(made["examples"].manifest.inputs) == {"codes"}
    assert set(encoding.open_stage(tuned).manifest.inputs) == {"activations/1.resid_post", "finetune"}


def test_left_out_it_changes_nothing(plain: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copied(plain, tmp_path)
    made = pipeline.make(run, ("train", "finetune"))
    assert list(made) == ["train"]
    assert "finetune: skipped, the recipe does not ask for it" in capsys.readouterr().err
    assert not (run.path / "finetune").exists()
    assert run.sae_folder == run.path / "sae" / "final"
    upstream = [activations.open_stage(run, run.recipe.hook_point), loop.open_stage(run)]
    expected = run.stage(run.folder("codes"), {}, upstream)
    assert encoding.open_stage(run).fingerprint == expected.fingerprint
    other = Run(run.path, Recipe.model_validate(run.recipe.model_dump() | {"finetune": {"lr": 1.0, "seed": 3}}))
    for behind in (examples, evaluation, report):
        assert behind.open_stage(other).fingerprint == behind.open_stage(run).fingerprint


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bytes(plain: Run, tuned: Run, tmp_path: Path) -> None:
    run = copied(plain, tmp_path)
    Run(run.path, tuned.recipe).save_recipe()
    kills = make_with_kills(f"""
        import torch
        torch.set_num_threads(1)
        from pathlib import Path
        from monosem import finetune
        from monosem.run import Run
        from monosem.recipe import Recipe
        run = Run.open(Path({str(tmp_path)!r}))
        train = run.recipe.train.model_copy(update=dict(checkpoint_minutes=1e-5))
        run.recipe = run.recipe.model_copy(update=dict(train=train))
        def make():
            with run.lock():
                finetune.make(run)
    """)
    assert kills > 6
    assert contents(run.path / "finetune") == contents(tuned.path / "finetune")


def test_a_signal_ends_it_with_a_checkpoint(
    plain: Run, tuned: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(copied(plain, tmp_path).path, tuned.recipe)
    batches = Reader.batches

    def interrupted(self: Reader, start: Place) -> Iterator[Batch]:
        for number, batch in enumerate(batches(self, start)):
            if number == 5:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patched:
        patched.setattr(Reader, "batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finetune.make(run)
    assert "stopped by SIGTERM; checkpoint at step 6" in capsys.readouterr().err
    assert files.load(run.path / "finetune" / "step-00000006").config == files.load(plain.sae_folder).config
    finetune.make(run)
    assert contents(run.path / "finetune") == contents(tuned.path / "finetune")


def test_another_seed_gives_another_sae(plain: Run, tuned: Run, tmp_path: Path) -> None:
    run = Run(copied(plain, tmp_path).path, asking(plain.recipe, seed=1))
    finetune.make(run)
    assert not torch.equal(files.load(run.sae_folder).W_dec, files.load(tuned.sae_folder).W_dec)


def test_the_rate_falls_to_nothing_and_penalties_start_at_once() -> None:
    asked = Recipe.model_validate(
        {
            "sae": {"sparsity": "jumprelu", "n": 64, "k": 4},
            "train": {
                "k_aux": 8,
                "decoder_norm": "free",
                "ema": 0.9,
                "micro_batch": 7,
                "penalty_coefficient": 0.3,
                "clip": 2,
            },
            "finetune": {"tokens": 100_000, "batch_tokens": 1000, "lr": 0.5, "warmup_fraction": 0.1, "alpha": 3},
        }
    )
    found = stage_module.settings(asked, d=16)
    rates = [found.optim.lr_at(step) for step in range(stage_module.total_steps(asked))]
    assert len(rates) == 100
    assert (rates[0], rates[9], rates[10], rates[-1]) == pytest.approx((0.05, 0.5, 0.5, 0.0))
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert found.objective.penalty is not None
    assert found.objective.penalty.coefficient_at(0) == pytest.approx(4 * 0.3)
    assert found.objective.penalty.coefficient_at(99) == pytest.approx(4 * 0.3)
    assert found.objective.aux.coefficient == pytest.approx(4 / 32)
    assert found.optim.clip == 8
    assert (found.objective.free_norms, found.ema, found.micro_batch, found.k_steps) == (False, None, None, 0)


def test_bad_input(plain: Run, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"finetune\.tokens: input should be greater than or equal to 0"):
        asking(plain.recipe, tokens=-1)
    with pytest.raises(RecipeError, match=r"finetune\.batch_tokens: input should be greater than or equal to 64"):
        asking(plain.recipe, batch_tokens=1)
    with pytest.raises(RunError, match="sentences has not been made"):
        finetune.make(Run(tmp_path / "nothing", asking(plain.recipe)))
    run = Run(copied(plain, tmp_path).path, asking(plain.recipe, lr=1e30))
    with pytest.raises(TrainingError, match=r"finetune: step \d+: the loss is [^;]*; lower finetune\.lr"):
        finetune.make(run)


def test_its_curves_stand_in_the_report(tuned: Run) -> None:
    pipeline.make(tuned, ("examples", "explain", "evaluate", "score", "report"))
    page = (tuned.path / "report.html").read_text()
    assert "Fine-tuning: KL" in page
    assert "Fine-tuning: FVU" in page


@pytest.mark.slow
def test_of_two_ranks_one_fine_tunes_and_the_other_waits(plain: Run, tuned: Run, tmp_path: Path) -> None:
    run = copied(plain, tmp_path / "two")
    told = tmp_path / "recipe.json"
    told.write_text(asking(plain.recipe).model_dump_json())
    program = f"""
        from pathlib import Path
        from monosem import pipeline
        from monosem.recipe import Recipe
        from monosem.run import Run
        run = Run(Path({str(run.path)!r}), Recipe.model_validate_json(Path({str(told)!r}).read_text()), ranks)
        print(pipeline.make(run, ("finetune",))["finetune"].complete)
        live = run.recipe.model_copy(update={{"train": run.recipe.train.model_copy(update={{"source": "live"}})}})
        try:
            pipeline.make(Run(Path({str(tmp_path / "live")!r}), live, ranks), ("sentences", "train"))
        except MonosemError as error:
            print(error)
    """
    for out in finish(start(script(program), 2)):
        done, refused = out.splitlines()
        assert done == "True"
        assert refused.startswith("train.source = 'live' trains in one process, and 2 were started; leave torchrun out")
    ours, theirs = (one.path / "finetune" / "final" / "sae.safetensors" for one in (run, tuned))
    assert ours.read_bytes() == theirs.read_bytes()
