"""Explanations that somebody is asked for: what to ask, what was answered, and what is asked again.

Flow: `plan` writes one request for each live latent; the `Post` sends and fetches them; `plan` then asks again about
latents whose answer expired, failed or cannot be read, as attempt n + 1; `write` makes `explanations.jsonl` of all
answers. Every step can be made alone and repeated.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from monosem import progress
from monosem.atomic import atomic_path
from monosem.errors import ProviderError
from monosem.interpret import examples, material, replies, tables
from monosem.interpret.cards import EXPLANATIONS
from monosem.interpret.prompts import USUAL_ANSWER, Prompter
from monosem.interpret.providers.open import open_provider
from monosem.interpret.providers.patience import Patience
from monosem.interpret.providers.post import Consent
from monosem.interpret.providers.protocol import Outcome, Request, Usage
from monosem.run import Run, Stage

ID = re.compile(r"[0-9a-f]{8}-L(\d+)-[a-z_]+-a(\d+)")
PLANNED = "attempt"  # the event that ends the planning of one attempt
DEAD = "dead: it never fires on the stored activations"


class Answer(NamedTuple):
    """What is known of one latent, after all its attempts so far."""

    request: str
    """Id of the last attempt."""
    attempt: int
    explanation: str | None
    certainty: float | None
    reason: str | None
    """Why there is no explanation."""
    kind: str
    """`explained`, `unreadable`, or how the request ended (`protocol.Status`)."""
    again: bool
    """Whether asking once more may help."""
    model: str
    used: Usage
    """By all attempts."""


class Asking:
    """The explanations of one run, asked of its provider.

    Args:
        stage: the folder `explanations/`.

    Raises:
        RunError: there are no examples.
        RecipeError, ProviderError, ModelError: as `open_provider`.
    """

    def __init__(
        self, run: Run, stage: Stage, consent: Consent | None = None, patience: Patience | None = None
    ) -> None:
        self._recipe, self._stage = run.recipe.explain, stage
        self._examples = examples.open_stage(run).require().path
        self._prompter = Prompter(self._recipe)
        self.post = open_provider(run.recipe, stage.path, stage.fingerprint, consent, patience)

    def plan(self) -> int:
        """Write the requests of the next attempt, if one is due; returns how many. Sends nothing.

        Raises:
            ProviderError: a prompt is longer than the model's context.
        """
        self._stage.begin()
        done = [event["number"] for event in self.post.book.happened(PLANNED)]
        if not done:
            return self._plan(1, self._live())
        if self.post.of("planned", "sending", "sent", "ended"):
            return 0
        left = done[-1] < self._recipe.attempts
        answers = sorted(self.answers().items())
        again = [latent for latent, answer in answers if answer.kind == "lost" or (left and answer.again)]
        return self._plan(done[-1] + 1, again) if again else 0

    def finish(self) -> None:
        """Ask until every latent has its answer or its attempts are used up. Raises as `Post.finish` and `plan`."""
        self.plan()
        self.post.finish()
        while self.plan():
            self.post.finish()

    def answers(self) -> dict[int, Answer]:
        """By latent: the last answer of each that has one."""
        found: dict[int, Answer] = {}
        for outcome in self.post.outcomes():
            latent, attempt = (int(number) for number in _parts(outcome.id))
            before = found.get(latent)
            used = outcome.usage + before.used if before else outcome.usage
            if before and before.attempt > attempt:
                found[latent] = before._replace(used=used)
                continue
            found[latent] = self._answer(outcome, attempt, used)
        for chunk in self.post.of("lost"):
            for id_ in self.post.book.ids(chunk):
                latent, attempt = (int(number) for number in _parts(id_))
                if latent not in found or found[latent].attempt < attempt:
                    reason = "lost: its batch is gone at the provider"
                    found[latent] = Answer(id_, attempt, None, None, reason, "lost", True, self.post.model, Usage())
        return found

    def _answer(self, outcome: Outcome, attempt: int, used: Usage) -> Answer:
        """What one outcome says of its latent."""
        reply = replies.Reply(None, None, f"{outcome.status}: {outcome.error}")
        kind, again = str(outcome.status), outcome.again
        if outcome.status == "succeeded":
            reply = replies.read(outcome.text)
            kind = "explained" if reply.explanation is not None else "unreadable"
            again = reply.explanation is None and self._varies
        reason = reply.reason or None
        return Answer(outcome.id, attempt, reply.explanation, reply.certainty, reason, kind, again, outcome.model, used)

    def write(self, *, final: bool = False) -> Stage:
        """Make `explanations.jsonl`, and the stage complete.

        Args:
            final: leave unexplained what could be asked again.

        Raises:
            ProviderError: requests are not answered yet, or are to be asked again.
        """
        waiting = self.post.of("planned", "sending", "sent", "ended")
        fetched = self.post.of("fetched", "lost")
        if not fetched and not self.post.book.happened(PLANNED):
            raise ProviderError(f"{self._stage.path}: nothing was asked yet; begin with: monosem explain plan RUN")
        if waiting and not (final and all(chunk.state == "planned" for chunk in waiting) and fetched):
            left = sum(chunk.count for chunk in waiting)
            raise ProviderError(
                f"{self._stage.path}: {left:,} requests are not answered yet; go on with: monosem explain run RUN --yes"
                + ("; or leave them unexplained: monosem explain parse RUN --final" if fetched else "")
            )
        answers = self.answers()
        shown = self._sentences(sorted(answers))
        fired = self._fire_counts()
        self._stage.begin()
        self._stage.shards = []
        with atomic_path(self._stage.path / EXPLANATIONS) as temporary, temporary.open("w", encoding="utf-8") as file:
            for latent, count in enumerate(fired.tolist()):
                row = self._row(latent, count, answers.get(latent), shown.get(latent, []))
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._stage.add_shard(EXPLANATIONS, len(fired))
        for chunk in fetched:
            self._stage.add_shard(f"requests/{chunk.name}.jsonl", chunk.count)
            for name in chunk.files:
                self._stage.add_shard(f"results/{name}", chunk.count)
        self._stage.finish(**self.counts(answers))
        return self._stage

    def counts(self, answers: dict[int, Answer]) -> dict[str, int | float]:
        """Explanations, outcomes, tokens and money in figures."""
        total = self.post.sum(self.post.of("fetched", "lost"))
        kinds: dict[str, int] = {}
        for answer in answers.values():
            kinds[answer.kind] = kinds.get(answer.kind, 0) + 1
        explained = kinds.pop("explained", 0)
        counts: dict[str, int | float] = {"explained": explained, "unexplained": len(self._fire_counts()) - explained}
        counts |= dict(sorted(kinds.items()))
        counts |= {"requests": total.requests}
        counts |= {f"{name}_tokens": count for name, count in vars(total.tokens).items() if count}
        if total.unseen:
            counts["answers_cut_off"] = total.unseen
        return counts if total.usd is None else {**counts, "usd": round(total.usd, 6)}

    def usual_usd(self, requests: int, tokens: Usage) -> float | None:
        """What requests cost if their answers have the usual length; None: the price is not known."""
        if self.post.price is None:
            return None
        output = min(USUAL_ANSWER[self._recipe.template], self._recipe.max_tokens) * requests
        return self.post.price.of(Usage(input=tokens.input, output=output))

    @property
    def _varies(self) -> bool:
        """Whether the same prompt may get another answer."""
        return self._recipe.provider != "lm" or bool(self._recipe.temperature)

    def _plan(self, attempt: int, latents: Sequence[int]) -> int:
        planned = self.post.plan(self._requests(attempt, latents))
        self.post.book.record(PLANNED, number=attempt, requests=planned)
        return planned

    def _requests(self, attempt: int, latents: Sequence[int]) -> Iterator[Request]:
        recipe = self._recipe
        with progress.progress("plan", len(latents), "requests") as advance:
            for found in material.read(self._examples, latents, recipe.aggregation, recipe.examples):
                id_ = f"{self._stage.fingerprint[:8]}-L{found.latent}-{recipe.aggregation}-a{attempt}"
                yield self._prompter.request(id_, found.lines)
                advance(1)

    def _sentences(self, latents: Sequence[int]) -> dict[int, list[int]]:
        """The numbers of the sentences that the prompts showed."""
        read = material.read(self._examples, latents, self._recipe.aggregation, self._recipe.examples)
        return {found.latent: found.sentences for found in read}

    def _fire_counts(self) -> np.ndarray:
        return pq.read_table(self._examples / tables.LATENTS, columns=["fire_count"])["fire_count"].to_numpy()

    def _live(self) -> list[int]:
        return np.flatnonzero(self._fire_counts()).tolist()

    def _row(self, latent: int, fire_count: int, answer: Answer | None, sentences: list[int]) -> dict[str, Any]:
        """What `explanations.jsonl` says of a latent."""
        row: dict[str, Any] = {
            "latent": latent,
            "explanation": answer.explanation if answer else None,
            "certainty": answer.certainty if answer else None,
            "provider": self._recipe.provider,
            "reason": answer.reason if answer else DEAD if not fire_count else "no sentence was left to show",
        }
        provenance: dict[str, Any] = {"aggregation": self._recipe.aggregation}
        if answer:
            price = self.post.price
            provenance |= {
                "model": answer.model,
                "prompt": self._prompter.identity,
                "language": self._recipe.language,
                "sentences": sentences,
                "request": answer.request,
                "attempts": answer.attempt,
                "tokens": vars(answer.used),
                "usd": None if price is None else round(price.of(answer.used), 8),
            }
        return {**row, "provenance": provenance}


def _parts(id_: str) -> tuple[str, str]:
    """Latent and attempt of a request's id."""
    found = ID.fullmatch(id_)
    assert found, id_
    return found[1], found[2]
