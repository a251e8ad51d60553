"""From a model's text to an explanation: the JSON object in it, mended once if it must be; or the reason there is none.

Knows no provider. A refusal or a cut-off answer never gets here: those are outcomes, not text.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

FENCED = re.compile(r"```(?:json)?\s*\n?(.*?)```", re.DOTALL)


class Reply(NamedTuple):
    """What a model said of a latent; or why that cannot be read."""

    explanation: str | None
    certainty: float | None
    reason: str = ""


def read(text: str) -> Reply:
    """The explanation in a model's answer.

    Looked for as the whole text, then in a fence, then as the last object of the text; the first of these that is
    there is mended once if it is not JSON as it stands.
    """
    reason = "no JSON object in the answer"
    for candidate in _candidates(text):
        for attempt in (candidate, _mend(candidate)):
            try:
                found = json.loads(attempt, strict=False)
            except (ValueError, RecursionError):
                reason = "the JSON in the answer is damaged"
                continue
            reply = _check(found)
            if reply.explanation is not None:
                return reply
            reason = reply.reason
            break
    return Reply(None, None, reason)


def _candidates(text: str) -> Iterator[str]:
    """Where the object may be, likeliest first."""
    whole = text.strip()
    if whole.startswith("{"):
        yield whole
    yield from (inside.strip() for inside in reversed(FENCED.findall(text)))
    start = text.rfind("{")
    if start > 0:
        yield text[start:].strip()


def _mend(text: str) -> str:
    """One repair: what follows the last brace goes, and commas before a bracket; an open string or object is closed."""
    end = text.rfind("}")
    mended = text[: end + 1] if end > 0 else text.rstrip().rstrip("`").rstrip()
    if end <= 0:
        quotes = len(re.findall(r'(?<!\\)"', mended))
        mended = mended.rstrip(",") + ('"' if quotes % 2 else "") + "}"
    return re.sub(r",\s*([}\]])", r"\1", mended)


def _check(found: Any) -> Reply:
    """The two values, if they are there and of their kind."""
    if not isinstance(found, dict):
        return Reply(None, None, "the JSON in the answer is not an object")
    explanation, certainty = found.get("explanation"), found.get("certainty", math.nan)
    if not isinstance(explanation, str) or not explanation.strip():
        return Reply(None, None, "the answer has no explanation")
    try:
        number = math.nan if isinstance(certainty, bool) else float(certainty)  # a number, or one in quotes
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        return Reply(None, None, "the answer has no certainty from 0 to 1")
    return Reply(" ".join(explanation.split()), number)
