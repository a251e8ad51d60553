"""The sections of a recipe that read an SAE and measure it."""

from typing import Literal, get_args

from pydantic import Field

from monosem.recipe.section import Count, Section

Aggregation = Literal["mean", "last", "max"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)


class ExamplesRecipe(Section):
    """The sentences that show what a latent reacts to."""

    prefix = "examples."

    top: Count = 50
    """Sentences kept for each latent and aggregation."""
    aggregations: tuple[Aggregation, ...] = ("mean", "last", "max")
    """How a sentence's token values become one number."""
    quantiles: int = Field(default=10, ge=0)
    """Sentences for each latent that are spread evenly over the ranks of its firing strength."""
    random: int = Field(default=10, ge=0)
    """Random sentences kept for each latent in which it fires."""
    negatives: int = Field(default=10, ge=0)
    """Sentences kept for each latent in which it is silent: so many that share its tokens, and so many at random."""
    test_fraction: float = Field(default=0.2, ge=0, lt=1)
    """Share of all sentences reserved for grading explanations: no example or negative is ever one of them."""
    test: int = Field(default=50, ge=0)
    """Reserved sentences kept for each latent: so many in which it fires, so many silent ones, so many that share its
    tokens."""
    pool: Count = 100_000
    """Sentences, drawn by hash, that negatives are looked for in."""


class ExplainRecipe(Section):
    """What the latents mean, in words."""

    prefix = "explain."

    provider: Literal["lexical"] = "lexical"
    """Who explains: `lexical` compares the words of a latent's sentences with the corpus, offline."""
    aggregation: Aggregation = "max"
    """The ranking of sentences that is explained."""
    terms: Count = 6
    """Most terms in one explanation."""


class EvaluateRecipe(Section):
    """How good the SAE is."""

    prefix = "evaluate."

    sentences: Count = 400
    """Held-out sentences the language model reads for downstream loss and KL."""
    batch_tokens: Count = 2048
    """Tokens the model reads at once."""
    steering_latents: int = Field(default=20, ge=0)
    """Latents with the highest output score whose steering is compared with random directions. 0: none."""
    steering_controls: Count = 20
    """Random directions of equal norm for each of them."""


class ReportRecipe(Section):
    """The page `report.html`."""

    prefix = "report."

    latents: Count = 500
    """Latent cards on the page, spread over the live latents."""
    sentences: Count = 8
    """Sentences on each card."""
