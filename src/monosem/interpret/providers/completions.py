"""Requests and answers as OpenAI's chat completions and batch files write them. Knows no network.

The same lines go to OpenAI's batches, to `vllm run-batch`, to compatible servers one by one, and to the embedded model.
"""

import json
from typing import Any

from monosem.interpret.providers.protocol import Outcome, Request, Status, Usage

ENDPOINT = "/v1/chat/completions"
PASSING = {408, 409, 429}
STOPPED: dict[str, Status] = {"batch_expired": "expired", "batch_cancelled": "canceled", "request_timeout": "errored"}


def batch_line(request: Request, model: str, effort: str | None, tokens_key: str) -> bytes:
    """One line of a batch file.

    Args:
        tokens_key: `max_completion_tokens`, or `max_tokens` for servers that know only the older name.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": request.system},
            {"role": "user", "content": request.prompt},
        ],
        tokens_key: request.max_tokens,
    }
    if request.schema is not None:
        named = {"name": "answer", "strict": True, "schema": dict(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    if effort is not None:
        body["reasoning_effort"] = effort
    if request.temperature is not None:
        body["temperature"] = request.temperature
    line = {"custom_id": request.id, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(line, ensure_ascii=False).encode()


def outcome(line: dict[str, Any], model: str) -> Outcome:
    """What one line of an output or error file says."""
    id_ = line["custom_id"]
    error, response = line.get("error") or {}, line.get("response") or {}
    code = str(error.get("code") or "")
    if code in STOPPED:
        return Outcome(id_, STOPPED[code], "", Usage(), model, _told(error, code), again=True)
    status, body = response.get("status_code", 0), response.get("body") or {}
    if status == 200 and body.get("choices"):
        return _answered(id_, body, model)
    told = _told(body.get("error") or error, f"status {status}")
    return Outcome(id_, "errored", "", Usage(), model, told, again=status in PASSING or status >= 500 or status == 0)


def _answered(id_: str, body: dict[str, Any], model: str) -> Outcome:
    choice, usage = body["choices"][0], _usage(body.get("usage") or {})
    answered_by = body.get("model") or model
    message, reason = choice.get("message") or {}, choice.get("finish_reason")
    if message.get("refusal") or reason == "content_filter":
        told = message.get("refusal") or "the provider's filter kept the answer back"
        return Outcome(id_, "refused", "", usage, answered_by, " ".join(told.split())[:300])
    if reason == "length":
        return Outcome(id_, "truncated", "", usage, answered_by, "the answer was cut off (length)")
    return Outcome(id_, "succeeded", message.get("content") or "", usage, answered_by)


def _usage(counted: dict[str, Any]) -> Usage:
    """Tokens of the prompt that were read from a cache, or written to one, are counted apart."""
    details = counted.get("prompt_tokens_details") or {}
    read, written = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
    return Usage(counted.get("prompt_tokens", 0) - read - written, counted.get("completion_tokens", 0), read, written)


def _told(error: Any, otherwise: str) -> str:
    """A server's own words; not every server nests them alike."""
    message = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(message or otherwise).split())[:300]
