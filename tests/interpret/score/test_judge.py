"""A perfect judge scores about 1, a random one and shuffled explanations about chance; bad answers are outcomes.

The judges are programs behind the `Provider` protocol that know nothing but the text of the prompt.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest

from monosem.interpret.providers.protocol import Outcome, Request, Usage
from monosem.interpret.score import judge, questions
from monosem.interpret.score.held_out import Reserved, Shown, Text
from monosem.interpret.score.rows import Row
from monosem.interpret.score.trials import GROUP, SCORES, Trial, Trials, mark, strong

WORDS = ["anchor", "violin", "theorem", "harvest", "pepper", "glacier", "senate", "comet"]
FILLER = ["the", "old", "one", "stood", "near", "a", "quiet", "road", "and", "many", "saw", "it"]


class Judge:
    """Answers with a program; counts its tokens as words."""

    name, model = "program", "program-1"

    def __init__(self, program: Callable[[Request], str]) -> None:
        self._program = program
        self.asked: list[Request] = []

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        for request in requests:
            self.asked.append(request)
            text = self._program(request)
            yield Outcome(request.id, "succeeded", text, Usage(len(request.prompt.split()), 1), self.model)


def perfect(request: Request) -> str:
    """Reads the description's word, or finds what the marks have in common; sees nothing but the prompt."""
    if "intruder" in request.system:
        marks = [set(re.findall("<<(.*?)>>", line)) for line in numbered(request.prompt)]
        return json.dumps({"intruder": 1 + int(np.argmin([sum(bool(a & b) for b in marks) for a in marks]))})
    description = re.search("Description: (.*)", request.prompt)
    assert description
    word = description[1]
    if "tokens" in request.system:
        tokens = [
            json.loads(line.split(" ", 1)[1]) for line in request.prompt.splitlines() if re.match(r"\d+ \"", line)
        ]
        return json.dumps({"values": [10 if token.strip() == word else 0 for token in tokens]})
    wanted = f"<<{word}>>" if "marked" in request.system else word
    return json.dumps({"likelihood": [90 if wanted in line else 10 for line in numbered(request.prompt)]})


def random(request: Request) -> str:
    """Pays no heed to the prompt."""
    rng = np.random.default_rng(zlib.crc32(request.id.encode()))
    if "intruder" in request.system:
        return json.dumps({"intruder": int(rng.integers(1, GROUP + 1))})
    if "tokens" in request.system:
        count = sum(bool(re.match(r"\d+ \"", line)) for line in request.prompt.splitlines())
        return json.dumps({"values": rng.integers(0, 11, count).tolist()})
    return json.dumps({"likelihood": rng.integers(0, 101, len(numbered(request.prompt))).tolist()})


def numbered(prompt: str) -> list[str]:
    return [line for line in prompt.splitlines() if re.match(r"\d+\. ", line)]


def latent_of(latent: int, sentences: int = 24) -> tuple[Reserved, dict[int, Text]]:
    """Fires on a word of its own, at value 4; the first token of each sentence is not stored."""
    rng = np.random.default_rng(latent)
    shown, texts = [], {}
    for number in range(2 * sentences):
        words = rng.choice(FILLER, rng.integers(5, 12)).tolist()
        firing = number < sentences
        at = int(rng.integers(1, len(words)))
        words[at] = WORDS[latent] if firing else WORDS[(latent + 1 + number % 7) % 8]
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        starts = np.append(0, ends[:-1])  # a token holds the space before it
        key = 1000 * latent + number
        texts[key] = Text(key, " ".join(words), starts.tolist(), ends.tolist(), [0] * len(words), [0])
        shown.append(Shown(key, "firing" if firing else "silent", 4.0 * firing, [at] * firing, [4.0] * firing))
    return Reserved(latent, shown), texts


def trials_of(latents: Iterable[int] = range(8), kinds=SCORES) -> list[Trial]:
    found: list[Trial] = []
    for latent in latents:
        test, texts = latent_of(latent)
        trials = Trials(test, texts, sentences=24, batch=5, seed=0, prefix="abcdef01")
        for kind in kinds:
            found += trials.make(kind, WORDS[latent])
            if kind != "intruder":
                found += trials.make(kind, WORDS[(latent + 3) % 8], own=False)
    return found


def scored(program: Callable[[Request], str]) -> list[Row]:
    answered, _ = judge.ask(Judge(program), trials_of())
    return judge.score(answered, dict.fromkeys(range(8), 4.0), seed=0)


def mean(rows: list[Row], score: str, figure: str, column: str = "value") -> float:
    return float(np.mean([getattr(row, column) for row in rows if (row.score, row.figure) == (score, figure)]))


FIGURES = [
    ("detection", "balanced_accuracy", 0.5),
    ("detection", "auroc", 0.5),
    ("fuzzing", "balanced_accuracy", 0.5),
    ("fuzzing", "auroc", 0.5),
    ("intruder", "accuracy", 1 / GROUP),
    ("simulation", "correlation", 0.0),
]


@pytest.mark.parametrize(("score", "figure", "chance"), FIGURES)
def test_a_perfect_judge_scores_one_and_shuffled_explanations_chance(score, figure, chance):
    rows = scored(perfect)
    assert mean(rows, score, figure) >= 0.97
    if score != "intruder":
        assert mean(rows, score, figure, "shuffled") == pytest.approx(chance, abs=0.12)


@pytest.mark.parametrize(("score", "figure", "chance"), FIGURES)
def test_a_random_judge_scores_chance(score, figure, chance):
    assert mean(scored(random), score, figure) == pytest.approx(chance, abs=0.12)


def test_simulation_explains_what_it_foretells():
    assert mean(scored(perfect), "simulation", "r2") == pytest.approx(1.0)
    assert mean(scored(random), "simulation", "r2") < 0


def test_a_judge_that_errs_always_is_below_chance():
    def contrary(request: Request) -> str:
        answer = json.loads(perfect(request))
        return json.dumps(
            {key: [100 - x for x in value] if key == "likelihood" else value for key, value in answer.items()}
        )

    rows = [row for row in scored(contrary) if row.score == "detection" and row.figure == "balanced_accuracy"]
    assert all(row.below_chance and row.value < 0.1 for row in rows)


def test_intervals_hold_the_figure():
    rows = [row for row in scored(random) if row.figure == "balanced_accuracy"]
    assert len(rows) == 16
    for row in rows:
        assert row.low is not None
        assert row.high is not None
        assert row.low <= row.value <= row.high
        assert 0.1 < row.high - row.low < 0.5


def test_false_marks_are_at_random_places():
    requests = [trial.request for trial in trials_of(kinds=("fuzzing",)) if trial.own]
    silent = [line for request in requests for line in numbered(request.prompt) if f"<<{WORDS[0]}>>" not in line]
    places = [len(line.split("<<")[0].split()) / len(line.split()) for line in silent]
    assert len({round(place, 2) for place in places}) > 20
    assert 0.4 < np.mean(places) < 0.75
    assert all(line.count("<<") == 1 for line in silent), "as many marks as a firing sentence has"


def test_ids_are_unique_and_fit_every_batch_interface():
    ids = [trial.request.id for trial in trials_of()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", id_) for id_ in ids)


BAD = [
    "",
    "I cannot answer that.",
    '{"likelihood": [1, 2]}',
    '{"likelihood": ["a", 1, 2, 3, 4]}',
    '{"likelihood": [1, 2, 3, 4, 101]}',
    '{"likelihood": [1, 2, 3, 4, -1]}',
    '{"likelihood": [true, 2, 3, 4, 5]}',
    '{"likelihood": [NaN, 2, 3, 4, 5]}',
    '{"likelihood": 3}',
    "[1, 2, 3, 4, 5]",
    '{"values": [1, 2, 3, 4, 5]}',
    '{"likelihood": [1, 2, 3, 4, 5]',
]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_answer_is_an_outcome_and_never_a_number(text):
    answered, bill = judge.ask(Judge(lambda _: text), trials_of(latents=[0], kinds=("detection",)))
    assert all(one.numbers is None and one.status == "malformed" for one in answered)
    assert bill.outcomes == {"malformed": len(answered)}
    assert judge.score(answered, {0: 4.0}, seed=0) == []


@pytest.mark.parametrize("text", ['{"intruder": 0}', '{"intruder": 6}', '{"intruder": true}', '{"intruder": 1.5}', "2"])
def test_an_intruder_that_is_none_of_the_sentences_is_an_outcome(text):
    answered, _ = judge.ask(Judge(lambda _: text), trials_of(latents=[0], kinds=("intruder",)))
    assert {one.status for one in answered} == {"malformed"}


def test_a_fenced_answer_is_read():
    assert questions.read_numbers('Here it is:\n```json\n{"likelihood": [1, 99]}\n```', "likelihood", 2, 100) == [1, 99]


def test_refusals_and_lost_answers_are_counted_and_the_rest_is_scored():
    class Unwilling(Judge):
        def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
            for number, outcome in enumerate(super().answer(requests)):
                if number % 5 == 0:
                    yield Outcome(outcome.id, "refused", "", Usage(3, 0), self.model, "no")
                elif number % 5 != 1:
                    yield outcome

    answered, bill = judge.ask(Unwilling(perfect), trials_of(latents=[0], kinds=("detection",)))
    assert bill.outcomes == {"missing": 4, "refused": 4, "succeeded": 12}
    rows = judge.score(answered, {0: 4.0}, seed=0)
    assert mean(rows, "detection", "balanced_accuracy") == 1.0


def test_with_hardly_any_answers_there_is_no_score():
    class Silent(Judge):
        def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
            yield next(super().answer(requests))

    answered, _ = judge.ask(Silent(perfect), trials_of(latents=[0], kinds=("detection",)))
    assert judge.score(answered, {0: 4.0}, seed=0) == []


def test_the_bill_adds_up_and_names_the_prompts():
    provider = Judge(perfect)
    _, bill = judge.ask(provider, trials_of(latents=[0, 1]))
    assert bill.usage == Usage(sum(len(request.prompt.split()) for request in provider.asked), len(provider.asked))
    assert bill.models == ["program-1"]
    assert set(bill.prompts) == {"detection-1", "fuzzing-1", "intruder-1", "simulation-1"}
    assert all(len(digest) == 64 for digest in bill.prompts.values())
    json.dumps(bill.figures())


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([], "a quiet road"),
        ([1], "a <<quiet>> road"),
        ([1, 2], "a <<quiet road>>"),
        ([0, 2], "<<a>> quiet <<road>>"),
    ],
)
def test_marks_stand_around_tokens_without_their_space(positions, expected):
    assert mark(Text(0, "a quiet road", [0, 1, 7], [1, 7, 12], [0] * 3, []), positions) == expected


def test_only_strong_tokens_are_marked():
    assert strong(Shown(0, "firing", 4.0, [1, 4, 7], [1.0, 2.1, 4.0])) == [4, 7]
