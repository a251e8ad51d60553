"""Requests and answers as Anthropic's Messages interface writes them. Knows no network."""

import json
from typing import Any

from monosem.interpret.providers.protocol import Outcome, Request, Usage

CUT_OFF = {"max_tokens", "model_context_window_exceeded"}
PASSING = {"api_error", "overloaded_error", "rate_limit_error", "timeout_error"}


def batch_line(request: Request, model: str, effort: str | None) -> bytes:
    """One request of a Message Batch. Its system prompt, which all share, is marked for the cache of an hour."""
    output: dict[str, Any] = {}
    if request.schema is not None:
        output["format"] = {"type": "json_schema", "schema": dict(request.schema)}
    if effort is not None:
        output["effort"] = effort
    cached = {"type": "ephemeral", "ttl": "1h"}
    params: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_tokens,
        "system": [{"type": "text", "text": request.system, "cache_control": cached}],
        "messages": [{"role": "user", "content": request.prompt}],
    }
    if output:
        params["output_config"] = output
    if request.temperature is not None:
        params["temperature"] = request.temperature
    return json.dumps({"custom_id": request.id, "params": params}, ensure_ascii=False).encode()


def outcome(line: dict[str, Any], model: str) -> Outcome:
    """What one line of a batch's results says."""
    id_, result = line["custom_id"], line["result"]
    kind = result["type"]
    if kind == "succeeded":
        return _answered(id_, result["message"])
    if kind == "errored":
        error = result["error"].get("error", {})
        name, message = error.get("type", "error"), error.get("message", "")
        return Outcome(id_, "errored", "", Usage(), model, f"{name}: {message}"[:300], again=name in PASSING)
    if kind in ("expired", "canceled"):
        return Outcome(id_, kind, "", Usage(), model, f"the batch {kind} before it was answered", again=True)
    return Outcome(id_, "errored", "", Usage(), model, f"a result of a kind that is not known: {kind}")


def _answered(id_: str, message: dict[str, Any]) -> Outcome:
    counted, model = message["usage"], message["model"]
    usage = Usage(
        counted["input_tokens"],
        counted["output_tokens"],
        counted.get("cache_read_input_tokens") or 0,
        counted.get("cache_creation_input_tokens") or 0,
    )
    reason = message["stop_reason"]
    if reason == "refusal":
        told = (message.get("stop_details") or {}).get("explanation") or "the model refuses to answer"
        return Outcome(id_, "refused", "", usage, model, " ".join(told.split())[:300])
    if reason in CUT_OFF:
        return Outcome(id_, "truncated", "", usage, model, f"the answer was cut off ({reason})")
    text = "".join(block.get("text", "") for block in message["content"] if block["type"] == "text")
    return Outcome(id_, "succeeded", text, usage, model)
