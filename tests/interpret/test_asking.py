"""Explanations through real SDKs against a server that goes wrong: asked once, paid once, whatever happens."""

from pathlib import Path

import pytest
from asked_run import asked_run, asking, attempt_of, check_done, explained, latent_of, rows
from batch_server import BatchServer, Trouble

BATCHES = ("anthropic", "openai")
CREATE = {"anthropic": "POST /v1/messages/batches", "openai": "POST /v1/batches"}
LOOK = {"anthropic": "GET /v1/messages/batches/batch_", "openai": "GET /v1/batches/batch_"}
LIST = {"anthropic": "GET /v1/messages/batches?", "openai": "GET /v1/batches?"}
RESULTS = {"anthropic": "GET /v1/messages/batches/batch_0000/results", "openai": "GET /v1/files/batch_0000-output"}


def some(id_: str) -> bool:
    return latent_of(id_) % 5 == 0


def once(kind: str):
    """Some requests end like this the first time, and well after that."""
    return lambda id_: kind if some(id_) and attempt_of(id_) == 1 else "ok"


def always(kind: str):
    return lambda id_: kind if some(id_) else "ok"


@pytest.mark.parametrize("provider", BATCHES)
@pytest.mark.parametrize("kind", ["expired", "errored", "canceled", "malformed", "missing"])
def test_what_failed_is_asked_again_and_nothing_else(
    kind: str, provider: str, made_folder: Path, tmp_path: Path, server: BatchServer
) -> None:
    server.script = once(kind)
    run = asked_run(made_folder, tmp_path, server, provider)
    explained(run)
    found = [row for row in check_done(run, server) if "request" in row["provenance"]]
    assert len(found) > 20
    for row in found:
        assert row["provenance"]["attempts"] == (2 if row["latent"] % 5 == 0 else 1)
    assert len(server.batches) == 2


@pytest.mark.parametrize("provider", BATCHES)
@pytest.mark.parametrize("kind", ["expired", "errored", "malformed"])
def test_attempts_end(kind: str, provider: str, made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    server.script = always(kind)
    run = asked_run(made_folder, tmp_path, server, provider, attempts=2)
    explained(run)
    check_done(run, server, unexplained=set(range(0, 64, 5)))
    assert len(server.batches) == 2


@pytest.mark.parametrize("provider", BATCHES)
@pytest.mark.parametrize(
    ("kind", "reason"),
    [("refusal", "refused: "), ("max_tokens", "truncated: "), ("invalid", "errored: ")],
)
def test_outcomes_that_stand(
    kind: str, reason: str, provider: str, made_folder: Path, tmp_path: Path, server: BatchServer
) -> None:
    """They are never text and never asked again; a refusal and a cut-off answer are paid for."""
    server.script = always(kind)
    run = asked_run(made_folder, tmp_path, server, provider)
    explained(run)
    unexplained = set(range(0, 64, 5))
    found = check_done(run, server, unexplained)
    assert all(row["reason"].startswith(reason) for row in found if row["latent"] in unexplained)
    assert len(server.batches) == 1


@pytest.mark.parametrize("provider", BATCHES)
@pytest.mark.parametrize("kind", ["fenced", "comma"])
def test_json_is_found_and_mended(
    kind: str, provider: str, made_folder: Path, tmp_path: Path, server: BatchServer
) -> None:
    server.script = always(kind)
    run = asked_run(made_folder, tmp_path, server, provider)
    explained(run)
    check_done(run, server)
    assert len(server.batches) == 1


@pytest.mark.parametrize("provider", BATCHES)
@pytest.mark.parametrize("how", ["polled", "unordered", "in chunks", "pages"])
def test_plain(how: str, provider: str, made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    server.polls = 4 if how == "polled" else 1
    server.shuffled = how == "unordered"
    run = asked_run(made_folder, tmp_path, server, provider, chunk={"in chunks": 9, "pages": 4}.get(how))
    explained(run)
    live = len([row for row in check_done(run, server) if "request" in row["provenance"]])
    size = {"in chunks": 9, "pages": 4}.get(how, live)
    assert len(server.batches) == -(-live // size)


@pytest.mark.parametrize("provider", BATCHES)
@pytest.mark.parametrize(
    ("where", "trouble"),
    [
        (CREATE, Trouble("", "status", 429, retry_after=0.5)),
        (CREATE, Trouble("", "status", 529, retry_after=0.5)),
        (CREATE, Trouble("", "status", 500)),
        (CREATE, Trouble("", "drop")),
        (CREATE, Trouble("", "act then status", 500)),
        (CREATE, Trouble("", "act then status", 504)),
        (CREATE, Trouble("", "act then drop")),
        (CREATE, Trouble("", "cut")),
        (LOOK, Trouble("", "status", 503)),
        (LOOK, Trouble("", "cut")),
        (LIST, Trouble("", "status", 500)),
        (LIST, Trouble("", "drop")),
        (RESULTS, Trouble("", "status", 429, retry_after=0.5)),
        (RESULTS, Trouble("", "status", 500)),
        (RESULTS, Trouble("", "cut")),
        (RESULTS, Trouble("", "drop")),
    ],
    ids=lambda value: f"{value.kind} {value.status}" if isinstance(value, Trouble) else next(iter(value.values())),
)
def test_trouble_on_the_way(
    where: dict[str, str], trouble: Trouble, provider: str, made_folder: Path, tmp_path: Path, server: BatchServer
) -> None:
    """Twice each; but a batch that was created all the same is found, and nobody tries to create it a second time."""
    server.troubles = [trouble._replace(route=where[provider])] * 2
    run, waits = asked_run(made_folder, tmp_path, server, provider), []
    found = asking(run, waits=waits)
    found.finish()
    found.write()
    check_done(run, server)
    found_again = where is CREATE and trouble.kind in ("act then status", "act then drop", "cut")
    assert len(server.troubles) == found_again
    assert len(server.batches) == 1
    assert (trouble.retry_after is None) or waits.count(0.5) == 2


def test_openai_upload_goes_wrong(made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    """Files cost nothing: to upload one twice does no harm."""
    server.troubles = [Trouble("POST /v1/files", "act then drop"), Trouble("POST /v1/files", "status", 500)]
    run = asked_run(made_folder, tmp_path, server, "openai")
    explained(run)
    check_done(run, server)
    assert len(server.batches) == 1


def test_rows_say_where_they_come_from(made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    run = asked_run(made_folder, tmp_path, server, "anthropic", language="Deutsch", template="short")
    stage = explained(run)
    row = next(row for row in rows(run) if row["explanation"])
    origin = row["provenance"]
    assert row["provider"] == "anthropic"
    assert origin["model"] == "test-model"
    assert origin["prompt"]["template"] == "short"
    assert origin["prompt"]["version"] == 1
    assert len(origin["prompt"]["sha256"]) == 64
    assert origin["language"] == "Deutsch"
    assert 1 <= len(origin["sentences"]) <= 5
    assert origin["request"] == f"{stage.fingerprint[:8]}-L{row['latent']}-max-a1"
    assert origin["usd"] > 0
    sent = (run.folder("explanations") / "requests" / "00000.jsonl").read_text(encoding="utf-8")
    assert "in Deutsch" in sent
    assert {shard.name for shard in stage.manifest.shards} == {
        "explanations.jsonl",
        "requests/00000.jsonl",
        "results/00000.jsonl",
    }
