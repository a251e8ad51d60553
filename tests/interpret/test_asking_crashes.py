"""A process that dies at any moment, and another that goes on: the same explanations, paid once."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from asked_run import OPEN, asked_run, attempt_of, check_done, explained, latent_of, patience
from batch_server import BatchServer, Trouble
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from monosem.errors import ProviderError
from monosem.interpret.providers import ledger
from monosem.interpret.providers.open import open_provider
from monosem.interpret.providers.post import Consent
from monosem.interpret.providers.protocol import Request
from monosem.recipe import Recipe

CREATE = {"anthropic": "POST /v1/messages/batches", "openai": "POST /v1/batches"}


class Died(BaseException):
    """As if the process were gone: nothing of ours catches it."""


class Deaths:
    """Kills at the n-th event, before or after it is on the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.after = 0, False
        append = ledger.Ledger.append

        def dying(book: ledger.Ledger, kind: str, **info: object) -> ledger.Event:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise Died
            event = append(book, kind, **info)
            if self.left == 0:
                raise Died
            return event

        monkeypatch.setattr(ledger.Ledger, "append", dying)


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_death_at_every_event(
    after: bool,
    provider: str,
    made_folder: Path,
    tmp_path: Path,
    server: BatchServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The n-th process dies at its n-th event; whatever the order, no batch exists twice."""
    server.script = lambda id_: "expired" if attempt_of(id_) == 1 and latent_of(id_) % 5 == 0 else "ok"
    run, deaths, died = asked_run(made_folder, tmp_path, server, provider, chunk=40), Deaths(monkeypatch), 0
    while True:
        deaths.left, deaths.after = died % 3 + 1, after
        try:
            explained(run)
            break
        except Died:
            died += 1
    assert died >= 6
    check_done(run, server)
    requests = sorted((run.folder("explanations") / "requests").iterdir())
    assert len(server.batches) == len(requests) == 3


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_interrupted_explanations_are_the_same_bytes(
    provider: str, made_folder: Path, tmp_path: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = asked_run(made_folder, tmp_path, server, provider)
    explained(run)
    whole = (run.folder("explanations") / "explanations.jsonl").read_bytes()
    server.batches.clear()
    server.files.clear()
    (tmp_path / "again").mkdir()
    other, deaths = asked_run(made_folder, tmp_path / "again", server, provider), Deaths(monkeypatch)
    for _ in range(40):
        deaths.left = 3
        with contextlib.suppress(Died):
            explained(other)
            break
    assert (other.folder("explanations") / "explanations.jsonl").read_bytes() == whole
    requests = [folder / "explanations" / "requests" / "00000.jsonl" for folder in (run.path, other.path)]
    assert requests[0].read_bytes() == requests[1].read_bytes()


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from asked_run import explained
from monosem.run import Run
explained(Run.open(Path({run!r})))
"""


@pytest.mark.slow
@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_kill_between_intent_and_answer(provider: str, made_folder: Path, tmp_path: Path, server: BatchServer) -> None:
    """The client is killed (SIGKILL) by the server, which has just created the batch and answers nobody."""
    run = asked_run(made_folder, tmp_path, server, provider)
    script = SCRIPT.format(path=[str(Path(__file__).parent), *sys.path], run=str(run.path))
    client = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    create, server_create = server.create, server.create

    def killing(*args: object, **more: object) -> str:
        made = create(*args, **more)  # type: ignore[arg-type]
        os.kill(client.pid, signal.SIGKILL)
        client.wait()
        return made

    server.create = killing  # type: ignore[method-assign]
    try:
        assert client.wait(120) == -signal.SIGKILL
    finally:
        server.create = server_create  # type: ignore[method-assign]
    assert len(server.batches) == 1
    explained(run)
    check_done(run, server)
    assert len(server.batches) == 1


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_another_batch_of_the_same_size_is_not_taken_for_ours(
    provider: str, made_folder: Path, tmp_path: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process died before anything was sent; meanwhile somebody else sent as many requests."""
    run, deaths = asked_run(made_folder, tmp_path, server, provider), Deaths(monkeypatch)
    deaths.left, deaths.after = {"anthropic": 4, "openai": 5}[provider], True
    with pytest.raises(Died):
        explained(run)
    sent = (
        (run.folder("explanations") / "requests" / "00000.jsonl")
        .read_text()
        .replace('"custom_id": "', '"custom_id": "x')
    )
    server.create([json.loads(line) for line in sent.splitlines()], metadata={"monosem": "somebody-else"})
    explained(run)
    server.billed = type(server.billed)({id_: n for id_, n in server.billed.items() if not id_.startswith("x")})
    assert set(server.billed.values()) == {1}
    assert len(server.batches) == 2


class Lives(RuleBasedStateMachine):
    """Processes that plan, send, fetch and die, in any order, against a server that goes wrong in any order."""

    server: BatchServer
    folder: Path
    provider: str
    monkeypatch: pytest.MonkeyPatch
    runs = 0

    @initialize(count=st.integers(1, 6), size=st.integers(1, 3))
    def begin(self, count: int, size: int) -> None:
        Lives.runs += 1
        self.server.reset()
        self.deaths = Deaths(self.monkeypatch)
        self.requests = [
            Request(f"00000000-L{n}-max-a1", "s", f"prompt {n}", 50, {"type": "object"}) for n in range(count)
        ]
        self.path = self.folder / str(Lives.runs)
        url = self.server.url + ("" if self.provider == "anthropic" else "/v1")
        self.recipe = Recipe.model_validate(
            {"explain": {"provider": self.provider, "model": "m", "base_url": url, "chunk": size}}
        )

    def teardown(self) -> None:
        """In the end everything is answered, each once."""
        self.server.troubles.clear()
        self.deaths.left = 0
        post = self._post()
        answered = sorted(outcome.id for outcome in post.answer(self.requests))
        assert answered == sorted(request.id for request in self.requests)
        assert self.server.billed == {request.id: 1 for request in self.requests}
        assert post.sum(post.of("fetched")).tokens.input == self.server.input_tokens
        self.monkeypatch.undo()

    @rule()
    def plan(self) -> None:
        self._live(lambda: self._post().plan(self.requests))

    @rule()
    def send(self) -> None:
        self._live(lambda: self._post().send())

    @rule()
    def fetch(self) -> None:
        self._live(lambda: self._post().fetch())

    @rule(left=st.integers(1, 4), after=st.booleans())
    def die_soon(self, left: int, after: bool) -> None:
        self.deaths.left, self.deaths.after = left, after

    @precondition(lambda self: len(self.server.troubles) < 3)
    @rule(
        kind=st.sampled_from(["status", "drop", "act then drop", "act then status", "cut"]),
        status=st.sampled_from([429, 500, 503, 529]),
        method=st.sampled_from(["POST", "GET"]),
    )
    def trouble_soon(self, kind: str, status: int, method: str) -> None:
        self.server.troubles.append(Trouble(f"{method} /v1/", kind, status))

    @invariant()
    def nothing_is_paid_twice(self) -> None:
        assert all(times == 1 for times in self.server.billed.values())
        ids = [line["custom_id"] for batch in self.server.batches.values() for line in batch["lines"]]
        assert len(ids) == len(set(ids))

    def _post(self):
        post = open_provider(self.recipe, self.path, "0" * 64, Consent(send=True), patience())
        OPEN.append(post)
        return post

    def _live(self, act) -> None:
        with contextlib.suppress(Died, ProviderError):
            act()


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_any_order_of_deaths_and_troubles(
    provider: str, tmp_path: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lives.server, Lives.folder, Lives.provider = server, tmp_path, provider
    Lives.monkeypatch = pytest.MonkeyPatch()
    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=12,
            stateful_step_count=10,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
