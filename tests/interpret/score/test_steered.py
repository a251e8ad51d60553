"""What steered texts are said to mean, and whether that agrees with what the latent reacts to."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from monosem.interpret.providers.protocol import Outcome, Request, Usage
from monosem.interpret.score import steered
from monosem.interpret.score.steered import Outputs

TOPICS = {0: "ships", 1: "treaties", 2: "bread", 3: "rain", 4: "kings"}
REFUSED, UNREADABLE = 2, 3


class Explainer:
    """Names the word that the steered texts repeat; finds that descriptions with one word agree."""

    name, model = "program", "program-1"

    def __init__(self) -> None:
        self.asked: dict[str, Request] = {}

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        for request in requests:
            assert request.id not in self.asked, "asked twice"
            self.asked[request.id] = request
            latent = int(request.id.split("-L")[1].split("-")[0])
            if "agreement" in request.id:
                reacts, brings = request.prompt.splitlines()[:2]
                same = reacts.split()[-1] == brings.split()[-1]
                yield self._said(request, {"agreement": [90 if same else 10]})
            elif latent == REFUSED:
                yield Outcome(request.id, "refused", "", Usage(10, 0), self.model, "will not say")
            elif latent == UNREADABLE:
                yield Outcome(request.id, "succeeded", "ships, mostly", Usage(10, 5), self.model)
            else:
                yield self._said(request, {"explanation": f"texts about {TOPICS[latent]}", "certainty": 0.8})

    def _said(self, request: Request, answer: dict[str, Any]) -> Outcome:
        return Outcome(request.id, "succeeded", json.dumps(answer), Usage(10, 5), self.model)


def written(latent: int, topic: str) -> dict[str, Any]:
    return {
        "latent": latent,
        "input_meaning": f"mentions of {TOPICS[latent] if latent != 4 else 'cats'}",
        "plain": ["the day was long", "it may be so"],
        "steered": [f"{topic} and {topic}", f"my {topic}\nare"],
        "raised": [f" {topic}"],
        "lowered": [" the"],
    }


@pytest.fixture(scope="module")
def asked() -> tuple[Explainer, Outputs]:
    explainer = Explainer()
    others = dict.fromkeys(TOPICS, "mentions of nothing")
    texts = [written(latent, topic) for latent, topic in TOPICS.items()]
    return explainer, steered.explain(explainer, texts, others, prefix="12345678")


def test_the_output_meaning_is_explained_from_both_texts_and_tokens(asked):
    explainer, found = asked
    assert found.meanings[0][:2] == ("texts about ships", 0.8)
    prompt = explainer.asked["12345678-L0-output"].prompt
    assert "1. the day was long" in prompt
    assert "1. ships and ships\n2. my ships are\n" in prompt
    assert "Likelier: ␣ships\nLess likely: ␣the" in prompt


def test_agreement_stands_beside_that_with_another_explanation(asked):
    rows = {row.latent: row for row in asked[1].rows}
    assert set(rows) == {0, 1, 4}
    assert [(rows[latent].value, rows[latent].shuffled) for latent in (0, 1)] == [(0.9, 0.1)] * 2
    assert rows[4].value == 0.1, "it reacts to cats and brings in kings"


def test_refusals_and_what_cannot_be_read_are_reasons(asked):
    explainer, found = asked
    assert found.meanings[REFUSED] == (None, None, "refused: will not say")
    assert found.meanings[UNREADABLE] == (None, None, "no JSON object in the answer")
    assert not any(f"-L{latent}-agreement" in id_ for id_ in explainer.asked for latent in (REFUSED, UNREADABLE))
    assert found.bill.outcomes == {"succeeded": 10, "refused": 1}
    assert found.bill.usage == Usage(110, 50)
    assert set(found.bill.prompts) == {"output-1", "agreement-1"}


def test_nothing_written_asks_nothing():
    found = steered.explain(Explainer(), [], {}, prefix="12345678")
    assert (found.rows, found.meanings, found.bill.outcomes) == ([], {}, {})
