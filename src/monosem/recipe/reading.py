"""The sections of a recipe that read an SAE and measure it."""

from typing import Literal, get_args

from pydantic import Field

from monosem.recipe.section import OPERATIONAL, Count, Section

Aggregation = Literal["mean", "last", "max"]
ExplainProvider = Literal["lexical", "anthropic", "openai", "compatible", "vllm", "lm"]
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
    random: int = Field(default=30, ge=0)
    """Random sentences kept for each latent in which it fires."""
    negatives: int = Field(default=10, ge=0)
    """Sentences kept for each latent in which it is silent: so many that share its tokens, and so many at random."""
    test_fraction: float = Field(default=0.2, ge=0, lt=1)
    """Share of all sentences reserved for grading explanations: no example or negative is ever one of them."""
    test: int = Field(default=50, ge=0)
    """Reserved sentences kept for each latent: so many in which it fires, so many silent ones, so many that share its
    tokens."""
    pool: Count = 50_000
    """Sentences, drawn by hash, that negatives are looked for in."""


class ExplainRecipe(Section):
    """What the latents mean, in words."""

    prefix = "explain."

    provider: ExplainProvider = "lexical"
    """Who explains: `lexical` compares the words of a latent's sentences with the corpus, offline; `anthropic` and
    `openai` are asked in batches, `compatible` is any server that speaks OpenAI's chat completions, `vllm` files for
    `vllm run-batch`, `lm` the run's own language model."""
    aggregation: Aggregation = "max"
    """The ranking of sentences that is explained."""
    terms: Count = 24
    """Most terms in one explanation; `lexical` only, which names as many as it needs."""
    model: str = ""
    """Model that is asked, as its provider names it; none for `lexical` and `lm`."""
    examples: Count = 20
    """Sentences shown in a prompt, best first."""
    template: Literal["full", "short"] = "full"
    """Prompt: `full` asks for key words, themes, outliers and strength before the explanation, `short` for it alone."""
    language: str = Field(default="English", pattern=r"^[\w][\w ()-]*$")
    """Language of the explanations."""
    max_tokens: Count = 2000
    """Most tokens of an answer; a model's own thinking counts."""
    temperature: float | None = Field(default=None, ge=0)
    """None: the model's own. Newer models refuse to be told one."""
    effort: str | None = None
    """How much the model thinks (`low`, `medium`, ...), for models that take it. None: its own default."""
    attempts: Count = 3
    """How often a latent is asked about, at most, when an answer expires, fails or cannot be read."""
    base_url: str | None = Field(default=None, json_schema_extra=OPERATIONAL)
    """Where the server is; `compatible` needs it, the others have their own."""
    context: Count | None = Field(default=None, json_schema_extra=OPERATIONAL)
    """Tokens that fit the model. None: what the price table or the model's files say."""
    concurrency: Count = Field(default=8, json_schema_extra=OPERATIONAL)
    """Requests under way at once, where they are asked one by one."""
    chunk: Count | None = Field(default=None, json_schema_extra=OPERATIONAL)
    """Most requests in one batch. None: what the provider takes."""
    poll_seconds: float = Field(default=60.0, gt=0, json_schema_extra=OPERATIONAL)
    """Seconds between two looks at a batch."""
    prices: str | None = Field(default=None, json_schema_extra=OPERATIONAL)
    """TOML file with prices that go before those of the package."""
    max_usd: float | None = Field(default=None, gt=0, json_schema_extra=OPERATIONAL)
    """Most that may be spent, in US dollars, over all attempts."""
    send: bool = Field(default=False, json_schema_extra=OPERATIONAL)
    """Send without being told `--yes`."""


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
