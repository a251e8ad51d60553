"""Does steering do what a latent's direction promises? Latents against random directions of the same length.

Flow: each latent's own maximum is added at every position of held-out prompts, and the probability of the tokens that
its logit lens raises is compared with the unsteered model's; the same for seeded random directions. A latent wins if
its factor beats every control. Then the model writes, plain and steered, and the clean model judges both texts.
Attention sinks pass unsteered. Knows no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from monosem import progress
from monosem.evaluate.outputs import NEUTRAL_PROMPT
from monosem.evaluate.replay import Replay, packs
from monosem.lm.generate import Sampling, Step
from monosem.lm.packed import Packed
from monosem.lm.protocol import LanguageModel
from monosem.sae.autoencoder import Autoencoder
from monosem.steering import spread, within

PROMPTS = 6
PROMPT_TOKENS = 8
SAMPLE_PROMPTS = (NEUTRAL_PROMPT, "The report said that", "I think")
NEW_TOKENS = 20
JUDGED_TOKENS = 2048  # of written text the clean model reads at once


class Candidate(NamedTuple):
    """A latent whose steering is tried."""

    latent: int
    maximum: float
    """Its largest observed value: the strength it is added with."""
    tokens: Sequence[int]
    """The ids that its logit lens raises."""


class Effect(NamedTuple):
    """What a push does to the probability of the latent's tokens."""

    factor: float
    """Mean probability mass of the tokens, steered over clean."""
    controls: Sequence[float]
    """The same for each random direction of equal length."""

    @property
    def win(self) -> bool:
        return self.factor > max(self.controls)


class Text(NamedTuple):
    """What the model wrote under one push."""

    samples: Sequence[str]
    """One continuation for each of `SAMPLE_PROMPTS`."""
    perplexity: float
    """Of all the new tokens, under the clean model."""
    repetition: float
    """Share of 3-grams that repeat an earlier one of the same text."""


@dataclass(frozen=True)
class Outcome:
    """All that is known of one latent's steering."""

    candidate: Candidate
    effect: Effect
    plain: Text
    steered: Text

    def figures(self) -> dict[str, Any]:
        """As `evaluation.json` has them."""
        return {
            "strength": self.candidate.maximum,
            "win": self.effect.win,
            "factor": self.effect.factor,
            "controls_max": max(self.effect.controls),
            "controls_median": median(self.effect.controls),
            "perplexity_clean": self.plain.perplexity,
            "perplexity_steered": self.steered.perplexity,
            "repetition_clean": self.plain.repetition,
            "repetition_steered": self.steered.repetition,
            "sample_prompt": SAMPLE_PROMPTS[0],
            "sample_plain": self.plain.samples[0],
            "sample_steered": self.steered.samples[0],
        }


def compare(
    replay: Replay,
    sae: Autoencoder,
    candidates: Sequence[Candidate],
    sentences: Sequence[Sequence[int]],
    *,
    controls: int,
    seed: int,
) -> list[Outcome]:
    """Try every candidate against `controls` random directions.

    Args:
        sentences: held-out token ids, whose beginnings are the prompts.
        seed: decides the random directions.
    """
    if not candidates:
        return []
    pushes = torch.stack([sae.direction(one.latent) * one.maximum for one in candidates])
    prompts = [ids[:PROMPT_TOKENS] for ids in sentences if len(ids) >= PROMPT_TOKENS][:PROMPTS]
    trial = _Trial(replay, sae, prompts or [replay.model.tokenizer.encode(NEUTRAL_PROMPT)])
    generator = torch.Generator().manual_seed(seed)
    found = []
    with progress.progress("steering", len(candidates), "latents") as advance:
        for one, push in zip(candidates, pushes, strict=True):
            random = torch.randn(controls, len(push), generator=generator).to(push)
            others = F.normalize(random) * push.norm()
            factor, *of_controls = trial.factors(torch.cat([push[None], others]), torch.tensor(one.tokens))
            found.append(Effect(factor, of_controls))
            advance(1)
    plain, *texts = write(replay, sae, torch.cat([torch.zeros_like(pushes[:1]), pushes]))
    return [Outcome(*one, plain, text) for one, text in zip(zip(candidates, found, strict=True), texts, strict=True)]


class _Trial:
    """Prompts whose next tokens are watched while something is added at every position but the sinks."""

    def __init__(self, replay: Replay, sae: Autoencoder, prompts: Sequence[Sequence[int]]) -> None:
        self._replay, self._prompts = replay, prompts
        packed = replay.pack(prompts)
        self._x = replay.activations(packed)
        self._edited = within(self._x, sae.config.output.norm_threshold).nonzero().squeeze(1)
        self._spread = spread(sae, self._x)[self._edited]
        self._clean = replay.final(packed, self._x)[self._edited]

    def factors(self, pushes: Tensor, tokens: Tensor) -> list[float]:
        """For each of `pushes [P, d]` the factor by which it multiplies the probability mass of the tokens."""
        variants = len(pushes)
        packed = self._replay.pack([*self._prompts] * variants)
        x = self._x.float().repeat(variants, 1)
        rows = (torch.arange(variants, device=x.device)[:, None] * len(self._x) + self._edited).flatten()
        x[rows] += (pushes.to(x)[:, None] * self._spread).flatten(0, 1)
        steered = self._mass(self._replay.final(packed, x)[rows], tokens).view(variants, -1).mean(1)
        return (steered / self._mass(self._clean, tokens).mean()).tolist()

    def _mass(self, ends: Tensor, tokens: Tensor) -> Tensor:
        """[R] probability of the tokens together, behind each of `ends [R, d_model]`."""
        pieces = self._replay.head(ends)
        return torch.cat([piece.log_softmax(1)[:, tokens.to(piece.device)].exp().sum(1) for piece in pieces])


def write(replay: Replay, sae: Autoencoder, pushes: Tensor) -> list[Text]:
    """Let the model continue the sample prompts greedily under each of `pushes [P, d]`, all in one batch."""
    model = replay.model
    starts = [model.tokenizer.encode(prompt) for prompt in SAMPLE_PROMPTS]
    batch = starts * len(pushes)
    of_row = pushes.to(model.device).repeat_interleave(len(starts), 0)
    hook = _RowPush(sae, of_row, replay.pack(batch).sentence)
    new: list[list[int]] = [[] for _ in batch]
    with model.hooks({replay.hook_point: hook}):
        for step in model.generate(batch, Sampling(max_new_tokens=NEW_TOKENS)):
            for row, token in zip(step.rows, step.ids, strict=True):
                new[row].append(token)
            hook.follow(step)
    losses = _losses(model, batch, new)
    groups = [slice(first, first + len(starts)) for first in range(0, len(batch), len(starts))]
    return [
        Text(
            samples=[model.tokenizer.decode(ids) for ids in new[group]],
            perplexity=torch.cat(losses[group]).mean().exp().item(),
            repetition=repetition(new[group]),
        )
        for group in groups
    ]


def repetition(texts: Sequence[Sequence[int]]) -> float:
    """Share of the texts' 3-grams that occurred before in the same text; above 0.2 a text has collapsed."""
    grams = [list(zip(ids, ids[1:], ids[2:], strict=False)) for ids in texts]
    total = sum(map(len, grams))
    return 1 - sum(len(set(found)) for found in grams) / total if total else 0.0


class _RowPush:
    """A hook that adds to every row of a generation a vector of its own, but not to sinks."""

    def __init__(self, sae: Autoencoder, pushes: Tensor, rows: Tensor) -> None:
        self._sae, self._pushes, self._rows = sae, pushes, rows

    def __call__(self, x: Tensor) -> Tensor:
        pushed = x.float() + self._pushes[self._rows] * spread(self._sae, x)
        return torch.where(within(x, self._sae.config.output.norm_threshold)[:, None], pushed.to(x), x)

    def follow(self, step: Step) -> None:
        """The next pass reads one token of each row that goes on (`monosem.lm.generate.Step.rows`)."""
        going = [row for row, end in zip(step.rows, step.ended, strict=True) if not end]
        self._rows = torch.tensor(going, device=self._pushes.device)


def _losses(model: LanguageModel, starts: Sequence[Sequence[int]], new: Sequence[Sequence[int]]) -> list[Tensor]:
    """For every text the clean model's loss on each new token."""
    losses: list[Tensor] = []
    for pack in packs([[*start, *ids] for start, ids in zip(starts, new, strict=True)], JUDGED_TOKENS):
        packed = Packed.pack(pack, model.device)
        logits = model.logits(packed)
        for begin, end in zip(packed.offsets[:-1].tolist(), packed.offsets[1:].tolist(), strict=True):
            first = begin + len(starts[len(losses)])
            losses.append(F.cross_entropy(logits[first - 1 : end - 1], packed.ids[first:end], reduction="none"))
    return losses
