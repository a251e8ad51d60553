"""The run's own language model as the one who answers: it costs nothing and needs nobody.

A small model explains badly, and no schema holds it to JSON; what it writes is read as any other answer. Greedy, so the
same prompt gets the same answer, unless a temperature is given; then the request's id is the seed.
"""

import zlib
from collections.abc import Sequence
from typing import Any

from monosem import progress
from monosem.interpret.providers import completions
from monosem.interpret.providers.direct import Journal
from monosem.interpret.providers.protocol import Outcome, Request
from monosem.lm.chat import Message, chat_format
from monosem.lm.generate import Sampling, collect
from monosem.lm.protocol import LanguageModel

TOKENS_AT_ONCE = 8192  # of prompts that are answered together


class EmbeddedModel:
    """Answers with a language model in memory (`Respondent`).

    Raises:
        ModelError: the model has no chat format that is known.
    """

    name = "lm"

    def __init__(self, model: LanguageModel, context: int | None = None) -> None:
        self._lm, self._format = model, chat_format(model.tokenizer)
        self.model = model.name
        self.context = min(context or model.config.context_length, model.config.context_length)

    def close(self) -> None:
        """Nothing is open."""

    def line(self, request: Request) -> bytes:
        return completions.batch_line(request, self.model, None, "max_tokens")

    def outcome(self, line: dict[str, Any]) -> Outcome:
        return completions.outcome(line, self.model)

    def prompt_tokens(self, request: Request) -> int:
        return len(self._encode(request.system, request.prompt))

    def respond(self, lines: Sequence[dict[str, Any]], journal: Journal) -> None:
        group: list[tuple[dict[str, Any], list[int]]] = []
        with progress.progress("answer", len(lines), "prompts") as advance:
            for line in lines:
                ids = self._encode(*(message["content"] for message in line["body"]["messages"]))
                if group and (len(group) + 1) * max(len(ids), *(len(other) for _, other in group)) > TOKENS_AT_ONCE:
                    advance(self._answer(group, journal))
                    group = []
                group.append((line, ids))
            if group:
                advance(self._answer(group, journal))

    def _answer(self, group: Sequence[tuple[dict[str, Any], list[int]]], journal: Journal) -> int:
        """Answer prompts that have the same settings; returns how many."""
        body = group[0][0]["body"]
        sampling = Sampling(body["max_tokens"], body.get("temperature", 0.0))
        seeds = [zlib.crc32(line["custom_id"].encode()) for line, _ in group]
        texts = collect(self._lm.generate([ids for _, ids in group], sampling, seeds), len(group))
        ends = set(self._lm.tokenizer.eos_ids)
        for (line, ids), new in zip(group, texts, strict=True):
            closed = bool(new) and new[-1] in ends
            message = {"role": "assistant", "content": self._lm.tokenizer.decode(new[:-1] if closed else new)}
            answer = {
                "model": self.model,
                "choices": [{"message": message, "finish_reason": "stop" if closed else "length"}],
                "usage": {"prompt_tokens": len(ids), "completion_tokens": len(new)},
            }
            journal.append({"custom_id": line["custom_id"], "response": {"status_code": 200, "body": answer}})
        return len(group)

    def _encode(self, system: str, prompt: str) -> list[int]:
        return self._format.encode([Message("system", system), Message("user", prompt)])
