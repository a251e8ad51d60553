"""The stage `score` on a small run: its files, what it skips, an interruption, a judge, what readers see."""

import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from monosem import pipeline
from monosem.errors import RunError
from monosem.evaluate.report import render
from monosem.interpret import cards, terminal
from monosem.interpret.providers.protocol import Outcome, Request, Usage
from monosem.interpret.score import by_judge, rows, shown, stage
from monosem.interpret.score.inputs import Inputs
from monosem.recipe import load
from monosem.run import Run

BEFORE = pipeline.VERBS[: pipeline.VERBS.index("score")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> Path:
    """A run up to its scores: few random latents, two for the model."""
    tiny = load(tiny_recipe)
    train = tiny.train.model_copy(update={"epochs": 0.05, "checkpoint_minutes": 10.0})
    run = Run(tmp_path_factory.mktemp("scored") / "run", tiny.model_copy(update={"train": train}))
    pipeline.make(run, [*BEFORE, "score"])
    return run.path


def test_every_live_latent_has_its_scores_beside_their_baselines(folder):
    run = Run.open(folder)
    inputs = Inputs(run)
    table = rows.read(folder / "scores" / rows.SCORES)
    by_score = {name: {row.latent for row in table if row.score == name} for name in ("lexical", "n2g", "agreement")}
    assert by_score["n2g"] <= set(inputs.live)
    assert len(by_score["n2g"]) > 0.8 * len(inputs.live)
    assert by_score["lexical"] <= set(inputs.terms)
    assert by_score["agreement"]
    for row in table:
        if row.figure in ("balanced_accuracy", "f1") and row.score in ("lexical", "n2g"):
            assert row.shuffled is not None
            assert row.shuffled_p95 is not None
            assert row.frequency is not None
            assert row.shuffled <= row.shuffled_p95 + 1e-6


def test_the_result_says_how_scores_were_made(folder):
    result = json.loads((folder / "scores" / stage.RESULT).read_text())
    assert result["summary"]["live"] == len(Inputs(Run.open(folder)).live)
    assert result["n2g"] == {"method": "stored activations", "ablated_on": 2}
    assert result["judge"] is None
    assert set(result["model_tokens"]) == {"n2g_ablated", "surprisal", "intervention"}
    assert all(result["model_tokens"].values())
    figure = result["scores"]["n2g"]["f1"]
    assert {"mean", "low", "high", "shuffled", "frequency", "random_sae", "same_sample"} <= set(figure)
    assert {"n2g_ablated", "intervention"} <= set(result["scores"])


def test_input_and_output_meaning_stand_side_by_side(folder):
    found = json.loads((folder / "scores" / "model.json").read_text())["latents"]
    assert len(found) == 2
    for one in found:
        assert one["input_meaning"]
        assert isinstance(one["output_meaning"], list)
        assert len(one["steered"]) == len(one["plain"]) == 3
        assert one["raised"]
        assert one["strength"] > 0


def test_made_again_it_is_skipped_and_interrupted_it_ends_with_the_same_bytes(folder, monkeypatch):
    run = Run.open(folder)
    names = [shard.name for shard in stage.open_stage(run).manifest.shards]
    before = {name: (folder / "scores" / name).read_bytes() for name in names}
    assert pipeline.make(run, ["score"])["score"].complete

    for name in names:
        (folder / "scores" / name).unlink()
    (folder / "scores" / "manifest.json").unlink()
    with monkeypatch.context() as context:
        context.setattr(stage._Parts, "model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            stage.make(run)
    assert (folder / "scores" / "n2g.parquet").exists()
    with monkeypatch.context() as context:
        context.setattr(stage._Parts, "terms", lambda *_: pytest.fail("made twice"))
        stage.make(run)
    assert {name: (folder / "scores" / name).read_bytes() for name in names} == before


def test_a_run_that_was_not_evaluated_is_refused(folder, tmp_path):
    run = Run(tmp_path / "none", Run.open(folder).recipe)
    with pytest.raises(RunError, match=r"has not been made; make it with: monosem run"):
        stage.make(run)
    assert not (tmp_path / "none" / "scores").exists()


class Knowing:
    """Answers every question in its form."""

    name, model = "program", "program-1"

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        for request in requests:
            count = len(re.findall(r"^\d+[. ]", request.prompt, re.MULTILINE))
            assert request.schema is not None
            key = request.schema["required"][0]
            answer = {key: 1 if key == "intruder" else [(7 * i) % 11 for i in range(count)]}
            yield Outcome(request.id, "succeeded", json.dumps(answer), Usage(10, 5), self.model)


def test_a_judge_is_asked_about_the_latents_of_the_recipe(folder):
    run = Run.open(folder)
    recipe = run.recipe.model_copy(update={"score": run.recipe.score.model_copy(update={"judged": 2})})
    found, bill = by_judge.ask(Inputs(Run(folder, recipe)), Knowing(), "12345678")
    assert {row.score for row in found} == {"detection", "fuzzing", "intruder", "simulation"}
    assert len({row.latent for row in found}) == 2
    assert set(bill.outcomes) == {"succeeded"}
    assert bill.usage.input == 10 * bill.outcomes["succeeded"]


def test_the_judge_is_a_provider_with_the_settings_of_explanations(tiny_recipe):
    recipe = load(tiny_recipe)
    score = recipe.score.model_copy(update={"judge": "compatible", "judge_model": "small"})
    asked = by_judge.judging(recipe.model_copy(update={"score": score})).explain
    assert (asked.provider, asked.model) == ("compatible", "small")
    assert asked.max_tokens == recipe.explain.max_tokens


def test_readers_see_scores_beside_baselines(folder):
    latent = rows.read(folder / "scores" / rows.SCORES)[0].latent
    card = cards.card(folder, latent)
    labels = [figure.label for figure in card.scores]
    assert any("token patterns" in label for label in labels)
    console = Console(file=io.StringIO(), width=140)
    console.print(terminal.show_card(card))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "shuffled" in text
    assert "random SAE" in text
    charts = shown.charts(folder)
    assert [chart.title for chart in charts] == ["Detection by terms, balanced accuracy", "Token patterns, F1"]
    assert all("95th percentile" in chart.alt for chart in charts)
    assert "Token patterns, F1" in render(folder, Run.open(folder).recipe)
