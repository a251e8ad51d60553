"""The command line on the tiny model: every stage, skipping, refusing, and every mistake as one line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pseudo_terminal import session

from monosem import pipeline
from monosem.app.text import printable
from monosem.cli import COMMANDS, main

ErrorLine = Callable[..., str]


@pytest.fixture(scope="module")
def made(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny recipe."""
    runs = tmp_path_factory.mktemp("runs")
    main(["run", str(tiny_recipe), "--runs", str(runs)])
    return runs / "tiny"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    for name in COMMANDS:
        with pytest.raises(SystemExit) as exit_:
            main([name, "--help"])
        assert exit_.value.code == 0
        assert f"usage: monosem {name}" in capsys.readouterr().out


def test_the_installed_command_starts_fast_and_tells_its_version() -> None:
    told = subprocess.run([sys.executable, "-X", "importtime", "-m", "monosem", "--version"], capture_output=True)
    assert told.returncode == 0
    assert told.stdout.startswith(b"monosem ")
    assert b"| torch\n" not in told.stderr


def test_every_stage_is_made_then_skipped(made: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (made / "report.html").stat().st_size > 10_000
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file() and path.name != ".lock"}
    main(["run", str(tiny_recipe), "--runs", str(made.parent)])
    shown = capsys.readouterr()
    assert shown.err.count("skipped") == len(pipeline.PIPELINE)
    assert "report.html" in shown.out
    after = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file() and path.name != ".lock"}
    assert before == after


def test_evaluate_prints_one_object(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(made), "--json"])
    figures = json.loads(capsys.readouterr().out)
    named = {"fvu", "l0", "cosine", "ce_clean", "ce_sae", "ce_recovered_zero", "ce_recovered_mean", "kl_recovered_zero"}
    named |= {"dead_fraction", "dead_window_tokens", "n_tokens"}
    assert named <= figures.keys()
    assert {"fvu", "l0", "cosine", "ce_clean", "ce_sae", "ce_recovered_zero", "n_tokens"} <= figures[
        "all_tokens"
    ].keys()


def test_a_latent_is_shown_found_and_steered_with(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["search", str(made), "violin", "--json"])
    latent = json.loads(capsys.readouterr().out)[0]["latent"]
    main(["show", str(made), str(latent)])
    assert f"latent {latent}" in capsys.readouterr().out.lower()
    main(["complete", str(made), "The violin", "--max-new-tokens", "5", "--json"])
    plain = json.loads(capsys.readouterr().out)
    edit = ["--steer", f"{latent}=50", "--show-latents"]
    main(["complete", str(made), "The violin", "--max-new-tokens", "5", "--json", *edit])
    steered = json.loads(capsys.readouterr().out)
    assert plain["prompt"] == steered["prompt"] == "The violin"
    assert [len(token["latents"]) for token in steered["tokens"]] == [3] * 5
    assert plain["text"] != steered["text"]
    assert (plain["edits"], steered["edits"]) == (
        [],
        [{"latent": latent, "value": 50.0, "mode": "add", "unit": "raw"}],
    )


def test_lines_of_a_file_are_completed_in_order_and_alike_alone(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ["The violin", "The harbour and the", "A proof"]
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(prompts) + "\n")
    settings = ["--max-new-tokens", "6", "--temperature", "1", "--seed", "3"]

    def printed(*arguments: str) -> str:
        main(["complete", str(made), *arguments, *settings])
        return capsys.readouterr().out

    together = printed("--file", str(file))
    assert together == "\n".join(printed(prompt) for prompt in prompts)
    assert "\x1b" not in together
    objects = [json.loads(line) for line in printed("--file", str(file), "--json").splitlines()]
    assert together == "\n".join(printable(one["prompt"] + one["text"]) + "\n" for one in objects)
    assert all(one["perplexity"] > 1 and one["seed"] == 3 for one in objects)


def test_a_steering_file_steers_and_is_compared(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "set.toml"
    file.write_text('[[edit]]\nlatent = 5\nvalue = 80\nmode = "clamp"\n')
    main(["complete", str(made), "The", "--steering", str(file), "--steer", "6=1", "--compare", "--json"])
    plain, steered = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (plain["steered"], steered["steered"]) == (False, True)
    assert plain["text"] != steered["text"]
    assert [(edit["latent"], edit["mode"]) for edit in steered["edits"]] == [(5, "clamp"), (6, "add")]
    assert plain["edits"] == []


def test_text_streams_to_a_terminal_before_the_command_ends(made: Path) -> None:
    with session(["complete", str(made), "The violin", "--max-new-tokens", "200"]) as (process, screen):
        screen.wait_for("The violin")
        screen.read(0.05)
        assert process.poll() is None
        while process.poll() is None:
            screen.read(0.05)
        screen.read()
    assert process.returncode == 0
    assert "\x1b[1m" in screen.seen


def test_ctrl_c_ends_a_completion_in_one_line(made: Path) -> None:
    with session(["complete", str(made), "The violin", "--max-new-tokens", "240"]) as (process, screen):
        screen.wait_for("The violin")
        screen.type("\x03")
        screen.wait_for("stopped")
        process.wait(10)
    assert process.returncode == 130
    assert "Traceback" not in screen.seen
    assert "goes on from here" not in screen.seen


def test_output_that_nobody_reads_any_more_is_no_error(made: Path) -> None:
    command = f"{sys.executable} -m monosem complete {made} The A One --json --max-new-tokens 200 | head -c 20"
    told = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert len(told.stdout) == 20
    assert told.stderr == ""


def test_another_recipe_in_the_same_run_is_refused_and_nothing_changes(made: Path, error_line: ErrorLine) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    line = error_line("run", str(made), "--sae.k", "8")
    assert "sae.k: the files have 4, the recipe says 8" in line
    assert "--name" in line
    assert "--redo" in line
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_redo_makes_a_stage_and_what_follows_again(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = (made / "report.html").read_bytes()
    main(["run", str(made), "--redo", "explain"])
    shown = capsys.readouterr().err
    assert "removed explanations, evaluation, scores, report" in shown
    assert shown.count("skipped") == pipeline.VERBS.index("explain")
    assert (made / "report.html").read_bytes() == old


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["rum", "x"], "no command 'rum'; did you mean 'run'?"),
        (["run", "nowhere"], "nowhere: neither a recipe nor a run folder"),
        (["run", "none.toml"], "none.toml: no such recipe"),
        (["run", "RECIPE", "--sae.k", "0"], "sae.k: input should be greater than or equal to 1"),
        (["run", "RECIPE", "--sae.k", "65"], "sae.k = 65 is larger than sae.n = 64"),
        (["run", "RECIPE", "--capture.hook-points", "9.resid_post"], "9.resid_post"),
        (["run", "RECIPE", "--capture.hook-points", "1.resid_pots"], "resid_post"),
        (["run", "RECIPE", "--model.source", "smollm3"], "smollm2-135m-instruct"),
        (["show", "RUN", "64"], "0 to 63"),
        (["show", "nowhere", "1"], "nowhere: not a run folder"),
        (["complete", "RUN", "x", "--steer", "64=1"], "0 to 63"),
        (["complete", "RUN", "x", "--steer", "eight"], "eight"),
        (["complete", "RUN", "x", "--temperature", "-1"], "temperature"),
        (["complete", "RUN", "x", "--top-p", "0"], "top_p"),
        (["complete", "RUN", "x", "--top-p", "1.5"], "top_p"),
        (["complete", "RUN", "x", "--samples", "0"], "--samples 0: expected at least 1"),
        (["complete", "RUN", "x", "--show-latents", "--top-latents", "0"], "--top-latents 0: expected at least 1"),
        (["complete", "RUN", ""], "the prompt is empty"),
        (["complete", "RUN"], "there is no prompt"),
        (["complete", "RUN", "--file", "none.txt"], "none.txt: No such file"),
        (["complete", "RUN", "word " * 300], "tokens; with 40 new ones at most 216 fit the context of 256"),
        (["complete", "RUN", "x", "--compare"], "--compare: nothing is steered"),
        (["complete", "RUN", "x", "--steering", "none.toml"], "none.toml: no such file"),
        (["complete", "RUN", "x", "--steering", "RECIPE"], "unknown key 'name'"),
        (["chat", "RUN"], "no chat format"),
        (["chat", "RUN", "--steer", "64=1"], "0 to 63"),
        (["chat", "nowhere"], "nowhere: not a run folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    made: Path, tiny_recipe: Path, tmp_path: Path, error_line: ErrorLine, argv: list[str], told: str
) -> None:
    places = {"RECIPE": str(tiny_recipe), "RUN": str(made)}
    argv = [places.get(argument, argument) for argument in argv]
    if argv[0] == "run":
        argv += ["--runs", str(tmp_path)]
    assert told in error_line(*argv)


def test_an_unknown_key_names_the_nearest(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["run", str(tiny_recipe), "--sae.kk", "3"])
    assert exit_.value.code == 2
    assert "--sae.k" in capsys.readouterr().err


def test_the_generated_page_is_what_the_commands_say() -> None:
    check = subprocess.run([sys.executable, "docs/cli.py", "--check"], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr
