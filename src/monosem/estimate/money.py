"""What a run costs in dollars beside the machine: storage, and the providers that explain and judge.

Requests are counted as the stages write them, tokens rather too many; each is asked once. A model that no table of
prices names has a bill without an amount.
"""

from typing import NamedTuple

from monosem.estimate.job import Job
from monosem.interpret.prompts import USUAL_ANSWER, Prompter
from monosem.interpret.providers.carrier import BYTES_A_TOKEN
from monosem.interpret.providers.prices import find_price
from monosem.interpret.providers.protocol import Usage
from monosem.interpret.score import questions
from monosem.interpret.score.by_judge import judging
from monosem.interpret.score.trials import GROUP, SCORES
from monosem.recipe import ExplainRecipe

STORAGE = 0.023
"""US dollars for a gigabyte and month of object storage (the list price of the large clouds' standard class, 2025)."""
LINE = 1.35
"""A sentence of a prompt beside an average one of the corpus: latents fire more often in longer ones. Assumed."""
MARKS = 30.0
"""Characters of a line that are put around its firing tokens, and its number. Assumed."""
EXPLANATION = 150
"""Characters of an explanation that is judged: 25 words."""


class Bill(NamedTuple):
    """What a provider would be asked for."""

    stage: str
    provider: str
    model: str
    requests: int
    tokens: Usage
    usd: float | None
    """None: the price is not known."""


def bills(job: Job) -> list[Bill]:
    """Of the explanations and of the judge, where the recipe asks a provider for them.

    Raises:
        RecipeError: the table that `explain.prices` names cannot be read.
    """
    return [one for one in (explanations(job), judgements(job)) if one is not None]


def explanations(job: Job) -> Bill | None:
    """One request for each latent; None where no provider is asked. Raises as `bills`."""
    recipe = job.recipe.explain
    if recipe.provider == "lexical":
        return None
    request = Prompter(recipe).request("L", [])
    prompt = len((request.system + request.prompt).encode()) + recipe.examples * _line(job)
    answer = min(USUAL_ANSWER[recipe.template], recipe.max_tokens)
    return _bill("explain", recipe, job.recipe.sae.n, prompt, answer)


def judgements(job: Job) -> Bill | None:
    """Detection, fuzzing and simulation of own and shuffled explanations, and intruders. Raises as `bills`."""
    score = job.recipe.score
    if score.judge == "none":
        return None
    shown, line = 2 * score.judge_sentences, _line(job)
    system = sum(len(questions.prompt(kind).system) for kind in SCORES) / len(SCORES)
    likelihoods = 4 * -(-shown // score.judge_batch)
    intruders = score.judge_sentences // (GROUP - 1)
    count = likelihoods + intruders + 2 * shown
    # a simulation lists the tokens of one sentence, each on a line of its own
    asked = 4 * shown * line + intruders * GROUP * line + 2 * shown * 3 * line
    tokens_a_sentence = job.work.tokens / max(1, job.work.sentences)
    numbers = 4 * shown + intruders + 2 * shown * tokens_a_sentence
    prompt = system + EXPLANATION + asked / count
    answer = questions.ANSWER_TOKENS + questions.NUMBER_TOKENS * numbers / count
    return _bill("score", judging(job.recipe).explain, score.judged * count, prompt, round(answer))


def _line(job: Job) -> float:
    """Characters of a sentence in a prompt."""
    return LINE * job.work.characters / max(1, job.work.sentences) + MARKS


def _bill(stage: str, asked: ExplainRecipe, count: int, prompt: float, answer: int) -> Bill:
    tokens = Usage(input=round(count * prompt / BYTES_A_TOKEN), output=count * answer)
    price = find_price(asked.provider, asked.model, asked.prices)
    return Bill(stage, asked.provider, asked.model, count, tokens, None if price is None else price.of(tokens))
