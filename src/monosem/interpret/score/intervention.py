"""Intervention: does a text written under steering sound more like the explanation than one written without?

Flow: for each latent the strength is found at which steering moves the next-token distribution of neutral prompts by a
fixed KL divergence; under it the model continues the sample prompts; then the clean model says how likely the
explanation is behind these texts and behind the plain ones: `E [log p(z | steered) - log p(z | clean)]`
(arXiv 2410.13928). Beside it the same with another latent's explanation, and with texts under a random direction of
equal KL. Attention sinks pass unsteered.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from monosem import progress
from monosem.evaluate import steering
from monosem.evaluate.replay import Replay
from monosem.interpret.score import questions
from monosem.interpret.score.likelihood import Reader
from monosem.interpret.score.rows import Row
from monosem.sae.autoencoder import Autoencoder
from monosem.steering import spread, within

KL = 1.0  # nats a position
AT_ONCE = 32  # directions tried in one pass
STEPS = 12  # of the bisection: the strength is known to a factor of 1.01
LOWEST, HIGHEST = 1e-2, 1e2  # strengths that are tried, in norms of the prompts' activations


class Written(NamedTuple):
    """Texts under one direction."""

    strength: float
    """Length of what was added to every activation, in raw units (with `layer` normalisation times its std)."""
    text: steering.Text


class Writings(NamedTuple):
    """Texts of L directions beside the plain ones."""

    plain: steering.Text
    steered: Sequence[Written]
    random: Sequence[Written]
    """Under random directions of equal KL."""


def write(replay: Replay, sae: Autoencoder, latents: Sequence[int], seed: int) -> Writings:
    """Let the model continue the sample prompts under each latent's direction and as many random ones."""
    generator = torch.Generator().manual_seed(seed)
    own = F.normalize(sae.W_dec.detach()[list(latents)].float())
    random = F.normalize(torch.randn(own.shape, generator=generator)).to(own)
    directions = torch.cat([own, random])
    strengths = equal_kl(replay, sae, directions)
    pushes = torch.cat([torch.zeros_like(own[:1]), strengths[:, None].to(own) * directions])
    plain, *texts = steering.write(replay, sae, pushes)
    written = [Written(float(strength), text) for strength, text in zip(strengths, texts, strict=True)]
    return Writings(plain, written[: len(latents)], written[len(latents) :])


@torch.no_grad()
def equal_kl(replay: Replay, sae: Autoencoder, directions: Tensor) -> Tensor:
    """`[L]` how far to go along each of `directions [L, d]`, unit rows, for a mean KL(clean || steered) of `KL`.

    By bisection on a logarithmic scale; a direction that never gets so far ends at the highest strength.
    """
    trial = _Trial(replay, sae)
    low = torch.full((len(directions),), LOWEST * trial.norm)
    high = torch.full((len(directions),), HIGHEST * trial.norm)
    with progress.progress("steering at equal KL", STEPS, "steps") as advance:
        for _ in range(STEPS):
            middle = (low * high).sqrt()
            over = trial.kl(middle[:, None].to(directions) * directions) > KL
            low, high = torch.where(over, low, middle), torch.where(over, middle, high)
            advance(1)
    return (low * high).sqrt()


class _Trial:
    """The sample prompts, and how far their predictions move under a push."""

    def __init__(self, replay: Replay, sae: Autoencoder) -> None:
        tokenizer = replay.model.tokenizer
        self._replay, self._prompts = replay, [tokenizer.encode(prompt) for prompt in steering.SAMPLE_PROMPTS]
        packed = replay.pack(self._prompts)
        self._x = replay.activations(packed)
        self._edited = within(self._x, sae.config.output.norm_threshold).nonzero().squeeze(1)
        self._spread = spread(sae, self._x)[self._edited]
        self._clean = torch.cat(list(replay.head(replay.final(packed, self._x)[self._edited]))).log_softmax(1)
        self.norm = float(self._x[self._edited].float().norm(dim=1).median())

    def kl(self, pushes: Tensor) -> Tensor:
        """`[P]` mean divergence over the positions that are steered, for each of `pushes [P, d]`."""
        return torch.cat([self._kl(part) for part in pushes.split(AT_ONCE)]).cpu()

    def _kl(self, pushes: Tensor) -> Tensor:
        count, edited = len(pushes), len(self._edited)
        x = self._x.float().repeat(count, 1)
        rows = (torch.arange(count, device=x.device)[:, None] * len(self._x) + self._edited).flatten()
        x[rows] += (pushes.to(x)[:, None] * self._spread).flatten(0, 1)
        ends = self._replay.final(self._replay.pack(self._prompts * count), x)[rows]
        # by the rows of one push, so that each meets the clean predictions in their order
        moved = (torch.cat(list(self._replay.head(own))) for own in ends.split(edited))
        parts = [F.kl_div(one.log_softmax(1), self._clean, reduction="batchmean", log_target=True) for one in moved]
        return torch.stack(parts)


def score(
    reader: Reader,
    writings: Writings,
    latents: Sequence[int],
    explanations: Mapping[int, str],
    others: Mapping[int, str],
) -> list[Row]:
    """The rows of every latent that has an explanation; `frequency` is not measured, `chance` is 0.

    Args:
        others: by latent, another latent's explanation.
    """
    rows = []
    for latent, steered, random in zip(latents, writings.steered, writings.random, strict=True):
        if latent not in explanations:
            continue
        own, other = explanations[latent], others[latent]
        gain = _gain(reader, steered.text, writings.plain, own)
        row = Row(latent, "intervention", "gain", gain, shuffled=_gain(reader, steered.text, writings.plain, other))
        rows.append(row._replace(chance=0.0))
        rows.append(
            Row(latent, "intervention", "gain_random_direction", _gain(reader, random.text, writings.plain, own))
        )
    return rows


def _gain(reader: Reader, steered: steering.Text, plain: steering.Text, explanation: str) -> float:
    """Mean over the prompts, in nats."""
    template = questions.prompt("intervention")
    contexts = [
        [
            template.fill(text=prompt + sample)
            for prompt, sample in zip(steering.SAMPLE_PROMPTS, text.samples, strict=True)
        ]
        for text in (steered, plain)
    ]
    told = [reader.log_probabilities([(context, explanation) for context in side]) for side in contexts]
    return sum(a - b for a, b in zip(*told, strict=True)) / len(told[0])
