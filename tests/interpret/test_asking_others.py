"""Servers asked one by one, files for vLLM, the embedded model, and the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from asked_run import OPEN, asked_run, asking, check_done, explained, patience, rows
from batch_server import BatchServer, Trouble, meaning
from test_asking_crashes import Died

from monosem.cli import main
from monosem.interpret.providers.direct import Journal
from monosem.interpret.providers.open import open_provider
from monosem.interpret.providers.post import Consent, Post
from monosem.interpret.providers.protocol import Request
from monosem.recipe import Recipe

CHAT = "POST /v1/chat/completions"
COUNT = 12


@pytest.fixture
def compatible(tmp_path: Path, server: BatchServer) -> Callable[[], Post]:
    keys = {"provider": "compatible", "model": "m", "base_url": f"{server.url}/v1", "concurrency": 3}
    recipe = Recipe.model_validate({"explain": keys})

    def opened() -> Post:
        OPEN.append(open_provider(recipe, tmp_path / "asked", "0" * 64, Consent(send=True), patience()))
        return OPEN[-1]

    return opened


def requests() -> list[Request]:
    """The server knows a request by the first line of its prompt."""
    return [Request(f"r{n}", "s", f"r{n}\nprompt", 50, {"type": "object"}) for n in range(COUNT)]


@pytest.mark.parametrize(
    "trouble",
    [
        Trouble(CHAT, "status", 429, 0.5),
        Trouble(CHAT, "status", 529, 0.5),
        Trouble(CHAT, "status", 500),
        Trouble(CHAT, "status", 503),
    ],
    ids=lambda trouble: str(trouble.status),
)
def test_servers_trouble_is_waited_for(trouble: Trouble, compatible: Callable[[], Post], server: BatchServer) -> None:
    server.troubles = [trouble] * 4
    post = compatible()
    outcomes = {outcome.id: outcome for outcome in post.answer(requests())}
    assert {json.loads(outcome.text)["explanation"] for outcome in outcomes.values()} == {
        meaning(f"r{n}") for n in range(COUNT)
    }
    assert server.billed == {f"r{n}": 1 for n in range(COUNT)}
    total = post.sum(post.of("fetched"))
    assert (total.tokens.input, total.tokens.output, total.unseen) == (server.input_tokens, server.output_tokens, 0)


@pytest.mark.parametrize("kind", ["cut", "act then drop"])
def test_answers_that_are_cut_off_are_counted(kind: str, compatible: Callable[[], Post], server: BatchServer) -> None:
    """A chat completion cannot be fetched once more: the server billed it, and we say so."""
    server.troubles = [Trouble(CHAT, kind)] * 2
    post = compatible()
    assert len(list(post.answer(requests()))) == COUNT
    assert sum(server.billed.values()) == COUNT + 2
    assert post.sum(post.of("fetched")).unseen == 2


@pytest.mark.parametrize(
    ("kind", "status"), [("refusal", "refused"), ("max_tokens", "truncated"), ("invalid", "errored")]
)
def test_outcomes(kind: str, status: str, compatible: Callable[[], Post], server: BatchServer) -> None:
    server.script = lambda id_: kind if id_ == "r3" else "ok"
    outcomes = {outcome.id: outcome for outcome in compatible().answer(requests())}
    assert outcomes["r3"].status == status
    assert outcomes["r3"].text == ""
    assert not outcomes["r3"].again
    assert [outcome.status for outcome in outcomes.values()].count("succeeded") == COUNT - 1
    assert server.calls[CHAT] == COUNT


def test_asked_before_is_not_asked_again(compatible: Callable[[], Post], server: BatchServer) -> None:
    first = sorted(compatible().answer(requests()[:7]), key=lambda outcome: outcome.id)
    again = sorted(compatible().answer(requests()), key=lambda outcome: outcome.id)
    assert set(first) < set(again)
    assert server.calls[CHAT] == COUNT


def test_death_between_answers(
    compatible: Callable[[], Post], server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered is kept; what was under way may have been paid for, and is counted."""
    append, left = Journal.append, [9]

    def dying(self: Journal, line: dict[str, object]) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Died
        append(self, line)

    monkeypatch.setattr(Journal, "append", dying)
    with pytest.raises(Died):
        list(compatible().answer(requests()))
    left[0] = 1000
    post = compatible()
    assert len(list(post.answer(requests()))) == COUNT
    twice = sum(server.billed.values()) - COUNT
    assert 0 <= twice <= post.sum(post.of("fetched")).unseen <= 3


def test_whole_run(made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    run = asked_run(made_folder, tmp_path, server, "compatible")
    stage = explained(run)
    assert stage.manifest.counts["explained"] > 20
    assert stage.manifest.counts["input_tokens"] == server.input_tokens


def test_vllm_files_go_out_and_come_back(made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    run = asked_run(made_folder, tmp_path, server, "vllm", base_url=None)
    found = asking(run, Consent())
    found.plan()
    found.post.send()
    chunk = found.post.of("sent")[0]
    folder = run.folder("explanations")
    assert chunk.batch.startswith("vllm run-batch -i ")
    assert found.post.fetch() == 1
    lines = [json.loads(line) for line in (folder / "requests" / "00000.jsonl").read_text().splitlines()]
    with (folder / "results" / "00000.jsonl").open("w") as file:
        for line in reversed(lines):
            text = json.dumps({"explanation": meaning(line["custom_id"]), "certainty": 0.75})
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            body = {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}
            response = {"status_code": 200, "request_id": "x", "body": body}
            file.write(
                json.dumps({"id": "x", "custom_id": line["custom_id"], "response": response, "error": None}) + "\n"
            )
    explained(run, Consent())
    check_done(run, server)


def test_steps_of_the_command_line(
    made_folder: Path, tmp_path: Path, server: BatchServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(asked_run(made_folder, tmp_path, server, "openai").path)
    main(["explain", "plan", run])
    told = capsys.readouterr().out
    assert "at most $" in told
    assert "nothing is sent yet" in told
    assert not server.calls
    main(["explain", "send", run, "--yes", "--max-usd", "50"])
    main(["explain", "status", run, "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [chunk["state"] for chunk in found["chunks"]] == ["sent"]
    assert found["open"]["usd_at_most"] > 0
    main(["explain", "fetch", run])
    main(["explain", "parse", run, "--json"])
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert counts["explained"] > 20
    assert len(server.batches) == 1


def test_explain_run_does_all(
    made_folder: Path, tmp_path: Path, server: BatchServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = asked_run(made_folder, tmp_path, server, "anthropic")
    main(["explain", "run", str(run.path), "--yes"])
    check_done(run, server)
    main(["explain", str(run.path)])
    assert "skipped" in capsys.readouterr().err
    assert "send = false" in (run.path / "recipe.toml").read_text()


def test_parse_can_leave_the_rest_unexplained(made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    server.script = lambda id_: "malformed" if "-L5-" in id_ or "-L6-" in id_ else "ok"
    run = asked_run(made_folder, tmp_path, server, "anthropic")
    for step in (["send", "--yes"], ["fetch"], ["fetch"]):
        main(["explain", step[0], str(run.path), *step[1:]])
    main(["explain", "parse", str(run.path), "--final"])
    unexplained = [row for row in rows(run) if row["reason"] == "no JSON object in the answer"]
    assert 1 <= len(unexplained) <= 2
    assert len(server.batches) == 1


@pytest.mark.model
@pytest.mark.slow
def test_the_embedded_model_answers(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"explain": {"provider": "lm"}})
    post = open_provider(recipe, tmp_path, "0" * 64)
    asked = [
        Request(f"r{n}", "Answer with one word.", f"What is the capital of {land}?", 20)
        for n, land in enumerate(("France", "Spain"))
    ]
    first = {outcome.id: outcome for outcome in post.answer(asked)}
    assert "Paris" in first["r0"].text
    assert "Madrid" in first["r1"].text
    assert first["r0"].usage.input > 10
    assert post.sum(post.of("fetched")).usd == 0
    again = open_provider(recipe, tmp_path / "again", "0" * 64)
    assert {outcome.id: outcome for outcome in again.answer(asked)} == first
