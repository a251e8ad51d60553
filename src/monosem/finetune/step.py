"""One step of fine-tuning: sentences in, an SAE that bends the language model's predictions less.

Flow: the model reads the sentences up to the hook point; a training step of the SAE reconstructs what it finds there,
lets the model go on from the reconstruction, and adds the gradient of the KL divergence to that of its own loss.
Activations that the SAE was not trained on (attention sinks) pass unedited. Knows nothing of runs and files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.lm.packed import Packed
from monosem.lm.protocol import LanguageModel
from monosem.sae.objective import Term
from monosem.steering import within
from monosem.train.step import StepResult, TrainStep

SMALLEST_KL = 1e-6
"""Nats a token: the balance does not raise the weight of what is smaller still, which is rounding."""


class FinetuneResult(NamedTuple):
    """One step's figures, all of the batch before the update."""

    training: StepResult
    kl: float
    """KL(clean || spliced), mean over the predicted tokens, in nats."""
    weight: float
    """What `kl` was multiplied by in the loss."""


@dataclass
class FinetuneStep:
    """Fine-tunes the SAE of `training` in place.

    Attributes:
        model: the language model, whose weights stay.
        hook_point: where the SAE's activations are.
        training: the step of the SAE's own loss; it holds the optimizer.
        alpha: 1: the KL divergence is weighted such that it is as large as the fraction of variance unexplained, anew
            in every step and without a gradient through the weight (Karvonen, 2025: the two losses have different
            scales, and what was tuned for one then serves for both).
        drop_first: whether first tokens of sentences were left out of the SAE's training.
    """

    model: LanguageModel
    hook_point: str
    training: TrainStep
    alpha: float = 1.0
    drop_first: bool = False

    @torch.no_grad()
    def step(self, sentences: Sequence[Sequence[int]]) -> FinetuneResult:
        """One optimizer step on sentences of token ids, each of two or more.

        Raises:
            TrainingError: the loss is not finite; the weights are then as they were.
            ModelError: the hook point has no gradient.
            SaeError: the activations are of another width than the SAE.
        """
        sae, packed = self.training.sae, Packed.pack(sentences, self.model.device)
        x = self.model.activations(packed, [self.hook_point])[self.hook_point]
        kept = within(x, sae.config.norm_threshold)
        if self.drop_first:
            kept &= packed.position > 0
        normalised = sae.normalise(x[kept].to(sae.W_enc.device))
        unit = 1 / sae.scale if normalised.std is None else normalised.std  # raw units in one normalised unit
        kl = weight = 0.0

        def further(error: Tensor, main: float) -> Term:
            nonlocal kl, weight
            x_hat = x.to(torch.float32, copy=True)
            x_hat[kept] += (error * unit).to(x.device)
            kl, gradient = self.model.kl_gradient(self.hook_point, x, x_hat, packed)
            weight = self.alpha * main / max(kl, SMALLEST_KL)
            return Term(weight * kl, gradient[kept].to(unit.device) * (weight * unit))

        return FinetuneResult(self.training.step_normalised(normalised.z, further), kl, weight)
