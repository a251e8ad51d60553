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
        hook_point: what the SAE reads.
        training: the step of the SAE's own loss; it holds the optimizer.
        alpha: 1: the KL divergence is weighted such that it is as large as the fraction of variance unexplained, anew
            in every step and without a gradient through the weight (Karvonen, 2025: the two losses have different
            scales, and what was tuned for one then serves for both).
        drop_first: whether first tokens of sentences were left out of the SAE's training.
        output_hook_point: what it reconstructs, of a transcoder. None: what it reads.
    """

    model: LanguageModel
    hook_point: str
    training: TrainStep
    alpha: float = 1.0
    drop_first: bool = False
    output_hook_point: str | None = None

    @torch.no_grad()
    def step(self, sentences: Sequence[Sequence[int]]) -> FinetuneResult:
        """One optimizer step on sentences of token ids, each of two or more.

        Raises:
            TrainingError: the loss is not finite; the weights are then as they were.
            ModelError: the hook point has no gradient.
            SaeError: the activations are of another width than the SAE.
        """
        sae, packed = self.training.sae, Packed.pack(sentences, self.model.device)
        output = self.output_hook_point or self.hook_point
        found = self.model.activations(packed, list(dict.fromkeys((self.hook_point, output))))
        source, x, device = found[self.hook_point], found[output], sae.W_enc.device
        kept = within(source, sae.config.norm_threshold)
        if self.drop_first:
            kept &= packed.position > 0
        target = None
        if sae.config.transcodes:
            kept &= within(x, sae.config.output.norm_threshold)
            target = sae.standardise_target(x[kept].to(device))
        normalised = sae.normalise(source[kept].to(device))
        # raw units in one normalised unit
        unit = 1 / sae.output.scale if normalised.std is None or sae.config.transcodes else normalised.std
        kl = weight = 0.0

        def further(error: Tensor, main: float) -> Term:
            nonlocal kl, weight
            x_hat = x.to(torch.float32, copy=True)
            x_hat[kept] += (error * unit).to(x.device)
            kl, gradient = self.model.kl_gradient(output, x, x_hat, packed)
            weight = self.alpha * main / max(kl, SMALLEST_KL)
            return Term(weight * kl, gradient[kept].to(unit.device) * (weight * unit))

        return FinetuneResult(self.training.step_normalised(normalised.z, target, further), kl, weight)
