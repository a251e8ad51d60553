"""What a judge is asked, and what an answer has to look like: templates, requests, and answers read strictly.

A template is a file of this package; its name ends with its version, and its hash stands in every result. An answer
that is not the JSON that was asked for is a failure, never a guess. Knows no provider.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from string import Template
from typing import Any

from monosem.interpret import prompts
from monosem.interpret.providers.protocol import Request

FOLDER = Path(__file__).parent / "prompts"
CURRENT: dict[str, int] = {"detection": 1, "fuzzing": 1, "intruder": 1, "simulation": 1, "surprisal": 1}
CURRENT |= {"intervention": 1, "output": 1, "agreement": 1}
MARK = "=== prompt\n"  # what stands before it in a file is the same for all prompts of the kind
FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
ANSWER_TOKENS = 64  # of an answer, beside those of its numbers
NUMBER_TOKENS = 4
EXPLANATION_TOKENS = 120  # of a sentence and its certainty


class AnswerError(ValueError):
    """An answer that is not what was asked for."""


@dataclass(frozen=True)
class Prompt:
    """One template."""

    name: str
    """With its version, as `detection-1`."""
    system: str
    body: Template
    sha256: str

    def fill(self, **fields: str) -> str:
        """The prompt with its fields filled in."""
        return self.body.substitute(fields)


@lru_cache
def prompt(kind: str) -> Prompt:
    """The current template of a kind of question."""
    name = f"{kind}-{CURRENT[kind]}"
    raw = (FOLDER / f"{name}.txt").read_bytes()
    system, body = raw.decode("utf-8").split(MARK)
    return Prompt(name, system.strip(), Template(body.strip()), hashlib.sha256(raw).hexdigest())


def likelihoods(id_: str, kind: str, explanation: str, sentences: Sequence[str]) -> Request:
    """Ask of each sentence how likely the latent fires there."""
    fields = {"explanation": explanation, "sentences": _numbered(sentences)}
    return _request(id_, kind, fields, len(sentences), _numbers("likelihood"))


def intruder(id_: str, sentences: Sequence[str]) -> Request:
    """Ask which sentence does not belong to the others."""
    schema = _object("intruder", {"type": "integer"})
    return _request(id_, "intruder", {"sentences": _numbered(sentences)}, len(sentences), schema)


def simulation(id_: str, explanation: str, tokens: Sequence[str]) -> Request:
    """Ask for the value at each token of a sentence."""
    shown = "\n".join(f"{number} {json.dumps(token, ensure_ascii=False)}" for number, token in enumerate(tokens, 1))
    fields = {"explanation": explanation, "tokens": shown}
    return _request(id_, "simulation", fields, len(tokens), _numbers("values"))


def output(
    id_: str, *, plain: Sequence[str], steered: Sequence[str], raised: Sequence[str], lowered: Sequence[str]
) -> Request:
    """Ask what a latent brings into texts; the answer is read as an explanation's is."""
    fields = {
        "plain": _numbered([" ".join(text.split()) for text in plain]),
        "steered": _numbered([" ".join(text.split()) for text in steered]),
        "raised": " ".join(raised),
        "lowered": " ".join(lowered),
    }
    chosen = prompt("output")
    return Request(id_, chosen.system, chosen.fill(**fields), EXPLANATION_TOKENS, prompts.schema("short"))


def agreement(id_: str, input_: str, output_: str) -> Request:
    """Ask whether what a latent reacts to and what it brings in are one thing."""
    return _request(id_, "agreement", {"input": input_, "output": output_}, 1, _numbers("agreement"))


def read_numbers(text: str, key: str, count: int, highest: int) -> list[float]:
    """The numbers of an answer.

    Raises:
        AnswerError: it holds something else, or another number of them.
    """
    found = _parsed(text, key)
    if not isinstance(found, list) or len(found) != count:
        raise AnswerError(f"{key}: expected {count} numbers")
    if not all(isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x <= highest for x in found):
        raise AnswerError(f"{key}: expected numbers from 0 to {highest}")
    return [float(x) for x in found]


def read_choice(text: str, count: int) -> int:
    """The sentence that an answer names, from 0.

    Raises:
        AnswerError: it names none of them.
    """
    found = _parsed(text, "intruder")
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= count:
        raise AnswerError(f"intruder: expected a whole number from 1 to {count}")
    return found - 1


def _parsed(text: str, key: str) -> Any:
    fenced = FENCE.search(text)
    try:
        found = json.loads(fenced[1] if fenced else text)
    except ValueError:
        raise AnswerError("no JSON") from None
    if not isinstance(found, dict) or key not in found:
        raise AnswerError(f"no {key!r} in the answer")
    return found[key]


def _request(id_: str, kind: str, fields: Mapping[str, str], count: int, schema: Mapping[str, Any]) -> Request:
    chosen = prompt(kind)
    text = chosen.fill(**fields, count=str(count))
    return Request(id_, chosen.system, text, ANSWER_TOKENS + NUMBER_TOKENS * count, schema)


def _numbered(sentences: Sequence[str]) -> str:
    return "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1))


def _numbers(key: str) -> Mapping[str, Any]:
    """Without the count and the range, which not every provider's schemas can say: the answer is checked for them."""
    return _object(key, {"type": "array", "items": {"type": "integer"}})


def _object(key: str, value: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": "object", "properties": {key: value}, "required": [key], "additionalProperties": False}
