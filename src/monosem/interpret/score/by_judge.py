"""What a judge says of some latents: detection, fuzzing, intruder and simulation, own and shuffled explanations; and of
the texts that were written under steering.

The provider is one of those that explain; it keeps its ledger, requests and answers below `scores/judge/`, and is asked
nothing twice.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monosem.interpret.providers.open import open_provider
from monosem.interpret.providers.protocol import Provider
from monosem.interpret.score import judge, steered
from monosem.interpret.score.inputs import Inputs
from monosem.interpret.score.trials import SCORES, Trial, Trials
from monosem.recipe import Recipe


def score(inputs: Inputs, folder: Path, owner: str, written: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`rows`, `meanings` and `bill`, ready for JSON; nothing where the recipe names no judge.

    Args:
        written: `latents` of `model.json`: what was written under steering.

    Raises:
        RecipeError, ProviderError: as `open_provider` and `Provider.answer`.
    """
    if inputs.recipe.judge == "none":
        return {"rows": [], "meanings": {}, "bill": None}
    with open_provider(judging(inputs.run.recipe), folder, owner) as provider:
        rows, bill = ask(inputs, provider, prefix=owner[:8])
        others = inputs.others([one["latent"] for one in written])
        outputs = steered.explain(provider, written, others, prefix=owner[:8])
        total = bill.plus(outputs.bill)
        usd = None if provider.price is None else provider.price.of(total.usage)
    return {
        "rows": [row._asdict() for row in (*rows, *outputs.rows)],
        "meanings": {latent: reply._asdict() for latent, reply in outputs.meanings.items()},
        "bill": {**total.figures(), "usd": usd},
    }


def ask(inputs: Inputs, provider: Provider, prefix: str) -> tuple[list[judge.Row], judge.Bill]:
    """Judge the latents that the recipe asks for."""
    trials = _trials(inputs, prefix)
    answered, bill = judge.ask(provider, trials)
    largest = {trial.latent: float(inputs.largest[trial.latent]) for trial in trials}
    return judge.score(answered, largest, inputs.run.recipe.seed), bill


def judging(recipe: Recipe) -> Recipe:
    """The recipe as the judge's provider reads it: that of the explanations, with the judge's name and model."""
    changed: dict[str, Any] = {"provider": recipe.score.judge}
    if recipe.score.judge_model:
        changed["model"] = recipe.score.judge_model
    return recipe.model_copy(update={"explain": recipe.explain.model_copy(update=changed)})


def _trials(inputs: Inputs, prefix: str) -> list[Trial]:
    recipe = inputs.recipe
    latents = inputs.spread(recipe.judged)
    tests, others = inputs.tests(latents, places=True), inputs.others(latents)
    texts = inputs.texts(tests)
    found: list[Trial] = []
    for test in tests:
        one = Trials(
            test,
            texts,
            sentences=recipe.judge_sentences,
            batch=recipe.judge_batch,
            seed=inputs.run.recipe.seed,
            prefix=prefix,
        )
        for kind in SCORES:
            found += one.make(kind, inputs.explanations[test.latent])
            if kind != "intruder":  # it reads no explanation
                found += one.make(kind, others[test.latent], own=False)
    return found
