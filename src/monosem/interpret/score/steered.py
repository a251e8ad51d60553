"""What steered texts say to whoever explains: the output meaning of a latent in a sentence, and whether it agrees.

Flow: the texts written with and without a latent's direction, and the tokens that it raises and lowers, are put to the
judge's provider, which answers as an explainer does; what it says is then held against the explanation, and against
that of another latent. Nothing is asked twice. Knows no model: `by_model` had the texts written.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from monosem.interpret import replies
from monosem.interpret.cards import visible
from monosem.interpret.providers.protocol import Outcome, Provider, Request, Usage
from monosem.interpret.replies import Reply
from monosem.interpret.score import questions
from monosem.interpret.score.judge import Bill
from monosem.interpret.score.questions import AnswerError
from monosem.interpret.score.rows import Row

SCORE = "meanings_agree"
BEST = 100  # agreement of two descriptions of one thing


class Outputs(NamedTuple):
    """Output meanings of some latents."""

    rows: Sequence[Row]
    """Agreement with the explanation, from 0 to 1; shuffled: with another latent's."""
    meanings: dict[int, Reply]
    """By latent; without an explanation there is a reason."""
    bill: Bill


def explain(
    provider: Provider, written: Sequence[Mapping[str, Any]], others: Mapping[int, str], prefix: str
) -> Outputs:
    """Ask for the output meaning of each latent, then for its agreement with the explanation.

    Args:
        written: `latents` of `model.json`.
        others: by latent, another latent's explanation.
        prefix: of every request's id.

    Raises:
        ProviderError: as `Provider.answer`.
    """
    said = _answers(provider, {one["latent"]: _output(one, prefix) for one in written})
    meanings = {latent: _meaning(outcome) for latent, outcome in said.items()}
    brought = {latent: found.explanation for latent, found in meanings.items() if found.explanation is not None}
    own = {one["latent"]: one["input_meaning"] for one in written if one["latent"] in brought}
    outcomes, agreed = list(said.values()), []
    for kind, inputs in (("own", own), ("other", {latent: others[latent] for latent in own})):
        asked = {
            latent: questions.agreement(f"{prefix}-L{latent}-agreement-{kind}", text, brought[latent])
            for latent, text in inputs.items()
        }
        answers = _answers(provider, asked)
        outcomes += answers.values()
        agreed.append({latent: _agreement(outcome) for latent, outcome in answers.items()})
    rows = [
        Row(latent, SCORE, "agreement", value, shuffled=agreed[1][latent])
        for latent, value in agreed[0].items()
        if value is not None
    ]
    return Outputs(rows, meanings, _bill(outcomes))


def _output(one: Mapping[str, Any], prefix: str) -> Request:
    return questions.output(
        f"{prefix}-L{one['latent']}-output",
        plain=one["plain"],
        steered=one["steered"],
        raised=[visible(token) for token in one["raised"]],
        lowered=[visible(token) for token in one["lowered"]],
    )


def _answers(provider: Provider, requests: Mapping[int, Request]) -> dict[int, Outcome | None]:
    """By latent; None where nothing came back."""
    found = {outcome.id: outcome for outcome in provider.answer(requests.values())} if requests else {}
    return {latent: found.get(request.id) for latent, request in requests.items()}


def _meaning(outcome: Outcome | None) -> Reply:
    """As an explanation: a refusal or what cannot be read is a reason, never text."""
    if outcome is None:
        return Reply(None, None, "missing: nothing came back")
    if outcome.status != "succeeded":
        return Reply(None, None, f"{outcome.status}: {outcome.error}")
    return replies.read(outcome.text)


def _agreement(outcome: Outcome | None) -> float | None:
    """From 0 to 1."""
    if outcome is None or outcome.status != "succeeded":
        return None
    try:
        (found,) = questions.read_numbers(outcome.text, "agreement", 1, BEST)
    except AnswerError:
        return None
    return found / BEST


def _bill(outcomes: Sequence[Outcome | None]) -> Bill:
    there = [outcome for outcome in outcomes if outcome is not None]
    asked = [questions.prompt(kind) for kind in ("output", "agreement")] if outcomes else []
    return Bill(
        dict(Counter("missing" if one is None else one.status for one in outcomes)),
        sum((outcome.usage for outcome in there), Usage()),
        sorted({outcome.model for outcome in there if outcome.model}),
        {prompt.name: prompt.sha256 for prompt in asked},
    )
