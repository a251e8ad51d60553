"""The section of a recipe that grades explanations."""

from typing import Literal

from pydantic import Field

from monosem.recipe.section import Count, Section


class ScoreRecipe(Section):
    """How good the explanations are."""

    prefix = "score."

    sentences: Count = 20_000
    """Sentences of the store, at most, that token patterns are learnt from and graded on."""
    shuffles: Count = 100
    """Other latents' explanations that each one is compared with."""
    random_latents: int = Field(default=300, ge=0)
    """Latents of an untrained SAE that are scored as a baseline. 0: none."""
    random_sentences: Count = 4000
    """Sentences, at most, that the untrained SAE encodes."""
    sample: int = Field(default=8, ge=0)
    """Latents that the run's language model scores: patterns by ablation, surprisal, intervention, steered texts. 0:
    none."""
    batch_tokens: Count = 2048
    """Tokens the model reads at once."""
    judge: Literal["none", "anthropic", "openai", "compatible", "vllm", "lm"] = "none"
    """Who is asked for detection, fuzzing, intruder and simulation scores, with the settings of `[explain]`."""
    judge_model: str = ""
    """Model that judges, as its provider names it. Empty: `explain.model`."""
    judged: Count = 100
    """Latents that are judged, spread evenly over those that have an explanation."""
    judge_sentences: Count = 10
    """Firing sentences, and as many silent ones, that each is judged on."""
    judge_batch: Count = 5
    """Sentences in one question."""
