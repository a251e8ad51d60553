"""From a recipe to whoever answers prompts."""

from pathlib import Path

from monosem.errors import RecipeError
from monosem.interpret.providers.book import Limits
from monosem.interpret.providers.carrier import Carrier
from monosem.interpret.providers.patience import Patience
from monosem.interpret.providers.post import Consent, Post
from monosem.interpret.providers.prices import Price, find_price
from monosem.recipe import ExplainRecipe, Recipe

ASKED = ("anthropic", "openai", "compatible", "vllm", "lm")
"""Providers that take prompts; `lexical` takes none."""


def open_provider(
    recipe: Recipe, folder: Path, owner: str, consent: Consent | None = None, patience: Patience | None = None
) -> Post:
    """The provider that `explain.provider` names; requests, raw results and the ledger are kept in `folder`.

    A request whose id was answered in `folder` before is not asked again: ids must be unique there.

    Args:
        owner: digest of what decides the requests, such as a stage's fingerprint.
        consent: None: what the recipe says (`explain.send`, `explain.max_usd`).

    Raises:
        RecipeError: the provider takes no prompts, or lacks a model or an address.
        ProviderError: the folder's ledger is not as it was left, or another owner's.
        ModelError: the embedded language model cannot be had (`lm`).
    """
    explain = recipe.explain
    price = find_price(explain.provider, explain.model, explain.prices)
    patience = patience or Patience(poll=explain.poll_seconds)
    consent = consent or Consent(explain.send, explain.max_usd)
    return Post(folder, owner, _carrier(recipe, price, patience), price, consent, patience)


def _carrier(recipe: Recipe, price: Price | None, patience: Patience) -> Carrier:
    explain = recipe.explain
    context = explain.context or (price.context if price else None)
    if explain.provider in ("anthropic", "openai", "compatible", "vllm") and not explain.model:
        raise RecipeError(f"explain.model is not set; say which model of {explain.provider} is asked")
    match explain.provider:
        case "anthropic":
            from monosem.interpret.providers.anthropic_batches import AnthropicBatches
            from monosem.interpret.providers.batches import BatchCarrier

            batches = AnthropicBatches(explain.model, explain.effort, explain.base_url)
            return BatchCarrier(batches, patience, limited(batches.limits, explain), context)
        case "openai":
            from monosem.interpret.providers.batches import BatchCarrier
            from monosem.interpret.providers.openai_batches import OpenAIBatches

            batches = OpenAIBatches(explain.model, explain.effort, explain.base_url)
            return BatchCarrier(batches, patience, limited(batches.limits, explain), context)
        case "compatible":
            from monosem.interpret.providers import direct
            from monosem.interpret.providers.compatible import CompatibleServer

            if explain.base_url is None:
                raise RecipeError(
                    "explain.base_url is not set; say where the server is, such as http://localhost:8000/v1"
                )
            server = CompatibleServer(
                explain.model, explain.base_url, patience, explain.effort, context, explain.concurrency
            )
            return direct.DirectCarrier(server, limited(direct.LIMITS, explain))
        case "vllm":
            from monosem.interpret.providers import vllm_files

            return vllm_files.VllmFiles(explain.model, limited(vllm_files.LIMITS, explain), context, explain.effort)
        case "lm":
            from monosem.interpret.providers import direct
            from monosem.interpret.providers.embedded import EmbeddedModel
            from monosem.lm.source import open_model

            return direct.DirectCarrier(
                EmbeddedModel(open_model(recipe.model), context), limited(direct.LIMITS, explain)
            )
        case provider:
            raise RecipeError(f"explain.provider = {provider!r} takes no prompts; one of {', '.join(ASKED)} does")


def limited(limits: Limits, explain: ExplainRecipe) -> Limits:
    """A provider's limits, with fewer requests where the recipe says so."""
    return limits._replace(requests=min(limits.requests, explain.chunk or limits.requests))
