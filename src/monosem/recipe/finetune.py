"""The section of a recipe that fine-tunes the trained SAE against the language model."""

from pydantic import Field

from monosem.recipe.section import Fraction, Section


class FinetuneRecipe(Section):
    """Fine-tuning of the SAE on the language model's predictions. The rest is as in `train`."""

    prefix = "finetune."

    tokens: int = Field(default=0, ge=0)
    """Tokens that the language model reads for it; 25,000,000 are usual. 0: the SAE stays as training left it."""
    batch_tokens: int = Field(default=2048, ge=64)
    """Tokens a step, in whole sentences: this many or a few more."""
    lr: float = Field(default=1e-4, gt=0)
    """Peak learning rate; it falls linearly to 0."""
    warmup_fraction: Fraction = 0.05
    """Share of all steps in which the rate rises linearly from 0."""
    alpha: float = Field(default=1.0, ge=0)
    """Weight of the KL divergence, as a multiple of the weight that makes it as large as the squared error."""
    seed: int | None = Field(default=None, ge=0)
    """Decides the order of the sentences. None: the run's."""

    @property
    def wanted(self) -> bool:
        """Whether the SAE of the run is a fine-tuned one."""
        return self.tokens > 0
