"""What a user can get wrong: named in one line, nothing sent. And the key: nowhere."""

import json
from pathlib import Path

import pytest
from asked_run import asked_run, asking, check_done, explained, rows
from batch_server import KEY, BatchServer

from monosem.cli import main
from monosem.errors import ProviderError, RecipeError, RunError
from monosem.interpret import explain
from monosem.interpret.providers.post import Consent


def test_no_key(made_folder: Path, tmp_path: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import keyring

    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setattr(keyring, "get_password", lambda *_: None)
    run = asked_run(made_folder, tmp_path, server, "anthropic")
    assert asking(run).plan() > 20  # to plan needs none
    with pytest.raises(ProviderError, match="no key for anthropic: set ANTHROPIC_API_KEY"):
        asking(run).post.send()
    assert not server.batches


def test_key_of_a_keyring(
    made_folder: Path, tmp_path: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keyring

    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setattr(
        keyring, "get_password", lambda service, name: KEY if (service, name) == ("monosem", "openai") else None
    )
    run = asked_run(made_folder, tmp_path, server, "openai")
    explained(run)
    check_done(run, server)


@pytest.mark.parametrize("provider", ["anthropic", "openai", "compatible"])
def test_wrong_key_is_said_and_not_shown(
    provider: str, made_folder: Path, tmp_path: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server repeats the key in its error; we do not."""
    wrong = "sk-wrong-9876543210"
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "MONOSEM_API_KEY"):
        monkeypatch.setenv(name, wrong)
    run = asked_run(made_folder, tmp_path, server, provider)
    with pytest.raises(ProviderError, match="refuses the key") as error:
        explained(run)
    assert wrong not in str(error.value)
    assert error.value.__cause__ is None
    _nowhere(tmp_path, wrong)
    assert not server.billed


@pytest.mark.parametrize("provider", ["anthropic", "openai", "compatible"])
def test_the_key_is_in_no_file_log_or_error(
    provider: str,
    made_folder: Path,
    tmp_path: Path,
    server: BatchServer,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = asked_run(made_folder, tmp_path, server, provider)
    for step in (["plan"], ["status"], ["send", "--yes"], ["fetch"], ["fetch"]):
        main(["explain", step[0], str(run.path), *step[1:]])
    printed = capsys.readouterr()
    assert KEY not in printed.out + printed.err + caplog.text
    assert server.billed
    _nowhere(tmp_path, KEY)


def test_budget_too_small_then_large_enough(made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    run = asked_run(made_folder, tmp_path, server, "anthropic")
    with pytest.raises(ProviderError, match=r"a budget of \$0.01 is too small"):
        explained(run, Consent(send=True, max_usd=0.01))
    assert not server.batches
    explained(run, Consent(send=True, max_usd=100.0))
    check_done(run, server)


def test_budget_lets_chunks_go_one_after_the_other(made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    """Most of what a chunk may cost is free again once it is fetched."""
    run = asked_run(made_folder, tmp_path, server, "anthropic", chunk=20)
    found = asking(run)
    found.plan()
    first = found.post.sum(found.post.of("planned")[:1])
    assert first.usd
    explained(run, Consent(send=True, max_usd=1.5 * first.usd))
    check_done(run, server)
    assert len(server.batches) > 2
    assert server.calls["POST /v1/messages/batches"] == len(server.batches)


def test_budget_without_a_price(made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    run = asked_run(made_folder, tmp_path, server, "anthropic", model="nobody-knows")
    with pytest.raises(ProviderError, match="the price of anthropic nobody-knows is not known"):
        explained(run, Consent(send=True, max_usd=5.0))
    assert not server.batches
    assert "usd" not in explained(run).manifest.counts


def test_nothing_is_sent_without_consent(made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    run = asked_run(made_folder, tmp_path, server, "openai")
    with pytest.raises(ProviderError, match="nothing is sent without --yes"):
        explain.make(run)
    assert not server.calls


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_batch_deleted(provider: str, made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    run = asked_run(made_folder, tmp_path, server, provider)
    found = asking(run)
    found.plan()
    found.post.send()
    lines = server.batches.pop("batch_0000")["lines"]
    with pytest.raises(ProviderError, match=r"batch batch_0000 \(chunk 00000, \d+ requests\) is gone"):
        asking(run).post.fetch()
    again = asking(run)
    assert again.post.resend_lost() == 1
    again.finish()
    counts = again.write().manifest.counts
    assert counts["answers_cut_off"] == len(lines)
    assert all(row["provenance"].get("attempts", 2) == 2 for row in rows(run))


def test_openai_refuses_a_whole_batch(made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    run = asked_run(made_folder, tmp_path, server, "openai")
    server.validates = False
    with pytest.raises(
        ProviderError, match="refused batch batch_0000 as a whole, and billed nothing: token_limit_exceeded"
    ):
        explained(run)
    server.validates = True
    explained(run)
    check_done(run, server)


@pytest.mark.parametrize("where", ["edited", "shortened", "of another run"])
def test_edited_ledger(where: str, made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    run = asked_run(made_folder, tmp_path, server, "anthropic")
    found = asking(run)
    found.plan()
    found.post.send()
    path = run.folder("explanations") / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    if where == "edited":
        path.write_text("".join(lines).replace('"batch_0000"', '"batch_0001"'))
    elif where == "shortened":
        path.write_text("".join(lines[:-1]))
    else:
        part = run.recipe.explain.model_copy(update={"max_tokens": 77})
        run.recipe = run.recipe.model_copy(update={"explain": part})
        (run.folder("explanations") / "manifest.json").unlink()
    told = {"edited": "line 5 was edited", "shortened": "lines are missing", "of another run": "belongs to another run"}
    with pytest.raises(ProviderError, match=told[where]):
        asking(run)
    assert len(server.batches) == 1


def test_torn_last_line_is_no_edit(made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    run = asked_run(made_folder, tmp_path, server, "anthropic")
    asking(run).plan()
    path = run.folder("explanations") / "ledger.jsonl"
    with path.open("a") as file:
        file.write('{"event": "intent", "at"')
    explained(run)
    check_done(run, server)


def test_results_of_another_run(made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    run = asked_run(made_folder, tmp_path, server, "vllm", base_url=None)
    found = asking(run)
    found.plan()
    found.post.send()
    answer = {"custom_id": "ffffffff-L1-max-a1", "response": {"status_code": 200, "body": {}}, "error": None}
    (run.folder("explanations") / "results" / "00000.jsonl").write_text(json.dumps(answer) + "\n")
    with pytest.raises(ProviderError, match="has the answer to ffffffff-L1-max-a1"):
        asking(run).post.fetch()


def test_results_changed_after_they_were_fetched(made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    run = asked_run(made_folder, tmp_path, server, "anthropic")
    asking(run).finish()
    path = run.folder("explanations") / "results" / "00000.jsonl"
    path.write_text(path.read_text().replace("meaning", "nonsense"))
    with pytest.raises(ProviderError, match="missing or changed since it was fetched"):
        asking(run).write()


def test_prompt_beyond_the_context_is_caught_at_plan_time(
    made_folder: Path, tmp_path: Path, server: BatchServer
) -> None:
    run = asked_run(made_folder, tmp_path, server, "anthropic", context=1500)
    with pytest.raises(ProviderError, match=r"do not fit the context of 1,500 of test-model"):
        asking(run).plan()
    assert not server.calls


def test_latents_that_never_fire_are_listed_and_not_asked(
    made_folder: Path, tmp_path: Path, server: BatchServer
) -> None:
    import pyarrow.parquet as pq

    run = asked_run(made_folder, tmp_path, server, "anthropic")
    explained(run)
    fired = pq.read_table(made_folder / "examples" / "latents.parquet")["fire_count"].to_numpy()
    for row in check_done(run, server):
        assert ("request" in row["provenance"]) == (fired[row["latent"]] > 0)
        assert fired[row["latent"]] or row["reason"].startswith("dead")


def test_redo_does_not_delete_what_was_paid_for(made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    run = asked_run(made_folder, tmp_path, server, "anthropic")
    asking(run).plan()
    explain.check(run, (), "explain")  # nothing was paid yet
    explained(run)
    for later in ("evaluate", "score", "report"):
        explain.check(run, (), later)
    with pytest.raises(RunError, match="holds answers that anthropic was asked for"):
        explain.check(run, (), "train")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"model": ""}, "explain.model is not set"),
        ({"provider": "compatible", "base_url": None}, "explain.base_url is not set"),
        ({"prices": "/no/such.toml"}, "explain.prices: /no/such.toml: no such file"),
    ],
)
def test_recipe(keys: dict[str, str], told: str, made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    run = asked_run(made_folder, tmp_path, server, "anthropic", **keys) if "provider" not in keys else None
    if run is None:
        run = asked_run(made_folder, tmp_path, server, str(keys.pop("provider")), **keys)
    with pytest.raises(RecipeError, match=told):
        asking(run)


def _nowhere(folder: Path, secret: str) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert secret.encode() not in path.read_bytes(), path
