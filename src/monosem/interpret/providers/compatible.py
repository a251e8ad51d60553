"""Any server that speaks OpenAI's chat completions, asked one by one with a few requests under way at once.

Too many requests and failures of the server are waited for; a request that the server refuses is an outcome.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from typing import TYPE_CHECKING, Any

from monosem import progress
from monosem.errors import ProviderError
from monosem.interpret.providers import completions
from monosem.interpret.providers.carrier import estimated_tokens
from monosem.interpret.providers.direct import Journal
from monosem.interpret.providers.keys import Key
from monosem.interpret.providers.patience import Fault, Patience, described, faults
from monosem.interpret.providers.protocol import Outcome, Request

if TYPE_CHECKING:
    import openai

SECONDS = 600.0  # a small machine may think long


class CompatibleServer:
    """A server at `base_url` (`Respondent`). To ask raises ProviderError if the package `openai` is not installed."""

    name = "compatible"

    def __init__(
        self,
        model: str,
        base_url: str,
        patience: Patience,
        effort: str | None = None,
        context: int | None = None,
        concurrency: int = 8,
    ) -> None:
        self.model, self.context, self._base_url = model, context, base_url
        self._patience, self._effort, self._concurrency = patience, effort, concurrency
        self._key = Key(self.name, needed=False)  # many servers need none
        self.prompt_tokens = estimated_tokens

    @cached_property
    def _client(self) -> "openai.OpenAI":
        try:
            import openai
        except ImportError:
            raise ProviderError("the package openai is not installed; pip install 'monosem[explain]'") from None
        key = self._key.reveal() or "none"
        return openai.OpenAI(api_key=key, base_url=self._base_url, max_retries=0, timeout=SECONDS)

    def close(self) -> None:
        if "_client" in vars(self):  # nobody was asked, nothing is open
            self._client.close()

    def line(self, request: Request) -> bytes:
        return completions.batch_line(request, self.model, self._effort, "max_tokens")

    def outcome(self, line: dict[str, Any]) -> Outcome:
        return completions.outcome(line, self.model)

    def respond(self, lines: Sequence[dict[str, Any]], journal: Journal) -> None:
        _ = self._client  # made once, before threads share it
        pool = ThreadPoolExecutor(self._concurrency)
        try:
            with progress.progress("ask", len(lines), "requests") as advance:
                for done in as_completed([pool.submit(self._ask, line, journal) for line in lines]):
                    done.result()
                    advance(1)
        finally:
            pool.shutdown(cancel_futures=True)

    def _ask(self, line: dict[str, Any], journal: Journal) -> None:
        """Ask until there is an answer, or none will come."""
        id_ = line["custom_id"]
        for tried in range(1, self._patience.tries + 1):
            journal.append({"custom_id": id_, "note": "asked"})
            try:
                body = self._call(line["body"])
            except Fault as fault:
                if fault.status is not None:
                    journal.append({"custom_id": id_, "note": "failed", "status": fault.status})
                if not fault.passing or tried == self._patience.tries:
                    self._give_up(id_, fault, journal)
                    return
                self._patience.back_off(tried, fault.retry_after)
            else:
                journal.append({"custom_id": id_, "response": {"status_code": 200, "body": body}})
                return

    def _give_up(self, id_: str, fault: Fault, journal: Journal) -> None:
        """Leave one request unanswered; a server that answers nobody, or refuses the key, ends everything."""
        if fault.status in (401, 403, 404) or (fault.status is None and not journal.answered):
            raise described(fault, self.name) from None
        body = {"error": {"message": fault.message}}
        journal.append({"custom_id": id_, "response": {"status_code": fault.status or 0, "body": body}})

    def _call(self, body: dict[str, Any]) -> dict[str, Any]:
        with faults(self._key):
            answer = self._client.chat.completions.with_raw_response.create(**body)
            return json.loads(answer.text)
