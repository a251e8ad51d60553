"""The stage `score` on a small run: its files, what it skips, an interruption, a judge, what readers see."""

import io
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from batch_server import BatchServer
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, made_folder: Path) -> Path:
    """A run up to its scores: few random latents, two for the model."""
    copy = tmp_path_factory.mktemp("scored") / "run"
    shutil.copytree(made_folder, copy)
    pipeline.make(Run.open(copy), ["explain", "evaluate", "score"])
    return copy


def test_every_live_latent_has_its_scores_beside_their_baselines(folder):
    run = Run.open(folder)
    inputs = Inputs(run)
    table = rows.read(folder / "scores" / rows.SCORES)
    names = ("lexical", "lexical_tokens", "n2g", "agreement")
    by_score = {name: {row.latent for row in table if row.score == name} for name in names}
    assert by_score["n2g"] <= set(inputs.live)
    assert len(by_score["n2g"]) > 0.8 * len(inputs.live)
    assert by_score["lexical"] <= set(inputs.terms)
    assert by_score["lexical_tokens"] <= set(inputs.term_lists)
    assert len(by_score["lexical_tokens"]) > 0.5 * len(inputs.live)
    assert by_score["agreement"]
    for row in table:
        if row.figure in ("balanced_accuracy", "f1") and row.score in ("lexical", "lexical_tokens", "n2g"):
            assert row.shuffled is not None
            assert row.shuffled_p95 is not None
            assert row.frequency is not None
            if row.score != "lexical_tokens":  # one outlier among many zeros is above their 95th percentile
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


@pytest.fixture
def judged(folder: Path, tmp_path: Path, server: BatchServer) -> Run:
    """The same run, its scores made again with a judge."""
    scored = Run.open(folder)
    prices = tmp_path / "prices.toml"
    prices.write_text("[anthropic.models]\njudge-1 = { input = 2.0, output = 10.0 }\n")
    keys = {"base_url": server.url, "prices": str(prices), "send": True, "poll_seconds": 0.01}
    explain = scored.recipe.explain.model_copy(update=keys)
    score = scored.recipe.score.model_copy(update={"judge": "anthropic", "judge_model": "judge-1", "judged": 2})
    run = Run(tmp_path / "run", scored.recipe.model_copy(update={"explain": explain, "score": score}))
    shutil.copytree(folder, run.path, ignore=shutil.ignore_patterns("scores"))
    made = stage.open_stage(run)
    made.begin()
    for shard in stage.open_stage(scored).manifest.shards:
        if shard.name not in ("judged.json", rows.SCORES, stage.RESULT):
            shutil.copy(folder / "scores" / shard.name, run.folder("scores") / shard.name)
            made.add_shard(shard.name, shard.rows)
    stage.make(run)
    return run


def test_a_judge_says_what_steered_texts_mean_and_is_never_paid_twice(judged: Run, server: BatchServer):
    """The server answers every question as an explainer does: as a judge of sentences it is useless."""
    found = json.loads((judged.folder("scores") / "judged.json").read_text())
    written = json.loads((judged.folder("scores") / "model.json").read_text())["latents"]
    assert set(found["meanings"]) == {str(one["latent"]) for one in written}
    assert all(said["explanation"].startswith("meaning of") for said in found["meanings"].values())
    assert found["bill"]["usd"] == pytest.approx((2 * server.input_tokens + 10 * server.output_tokens) / 1e6)
    assert set(server.billed.values()) == {1}

    card = cards.card(judged.path, written[0]["latent"])
    assert card.steered is not None
    assert card.steered.meaning == found["meanings"][str(card.latent)]["explanation"]
    console = Console(file=io.StringIO(), width=140)
    console.print(terminal.show_card(card))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "brings in  meaning of" in text

    for redo in ("score", "explain", "train"):
        with pytest.raises(RunError, match=r"scores/judge: holds answers that anthropic was asked for, and --redo"):
            pipeline.make(judged, ["score"], redo=redo)
    stage.check(judged, (), "report")
    (judged.folder("scores") / "manifest.json").unlink()
    with pytest.raises(RunError, match="holds answers that a provider was asked for"):
        stage.check(judged, (), "score")


def test_scores_without_a_judge_are_made_again_at_will(folder: Path):
    stage.check(Run.open(folder), (), "score")


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
    assert any("patterns" in label for label in labels)
    console = Console(file=io.StringIO(), width=140)
    console.print(terminal.show_card(card))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "shuffled" in text
    assert "p95" in text
    charts = shown.charts(folder)
    assert [chart.title for chart in charts] == ["Terms, balanced accuracy", "Patterns, F1"]
    assert all("95th percentile" in chart.alt for chart in charts)
    assert "Patterns, F1" in render(folder, Run.open(folder).recipe)
