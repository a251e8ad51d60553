"""What latents do to the model's output: the logit lens of each, and its output score.

The lens is the final norm and head made linear: a direction times the norm's weights times the unembedding, centred
over the vocabulary (nostalgebraist, 2020). The norm's division by the residual's own size is left out: it scales all
tokens alike. Both are read off the model through its protocol, by handing it basis vectors. The output score
(arXiv 2505.20063, section 3) asks what really comes out when the latent is amplified.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from monosem import progress
from monosem.evaluate.replay import HEAD_ROWS, Replay
from monosem.lm.hookpoints import HookPoint
from monosem.lm.protocol import LanguageModel
from monosem.sae.autoencoder import Autoencoder
from monosem.steering import spread

NEUTRAL_PROMPT = "In my experience,"
TOP_TOKENS = 20
AMPLIFICATION = 10.0  # of a latent's largest observed value
CHUNK_LATENTS = 128  # tried at once: few enough that the memory of their wide results is reused


class Lens(NamedTuple):
    """The tokens that L latents raise and lower most, strongest first."""

    raised: Tensor
    """[L, 20] int64 token ids."""
    raised_by: Tensor
    """[L, 20] float32, logits above the vocabulary's mean for a unit direction, up to the lens's common scale."""
    lowered: Tensor
    """[L, 20] int64."""
    lowered_by: Tensor
    """[L, 20] float32, negative."""


def lens(model: LanguageModel, hook_point: str, directions: Tensor) -> Lens:
    """The logit lens of `directions [L, d]` at a hook point; special and unused tokens are left out."""
    silent = silent_tokens(model)
    spoken = torch.ones(model.config.vocab_size, dtype=torch.bool).index_fill_(0, silent, False).nonzero().squeeze(1)
    spoken = spoken.to(model.device)
    unembedding = (_to_residual(model, hook_point) @ lens_matrix(model))[:, spoken]
    count = min(TOP_TOKENS, len(spoken))
    parts = []
    for chunk in directions.to(unembedding).split(CHUNK_LATENTS):
        effect = chunk @ unembedding
        raised, lowered = effect.topk(count), effect.topk(count, largest=False)
        parts.append((spoken[raised.indices], raised.values, spoken[lowered.indices], lowered.values))
    return Lens(*(torch.cat(column) for column in zip(*parts, strict=True)))


def lens_matrix(model: LanguageModel) -> Tensor:
    """`[d_model, vocab]` float32: the final norm's weights times the unembedding, centred over the vocabulary.

    A basis vector alone in the residual stream comes out of the norm as sqrt(d_model) times its weight, so the model's
    own logits for it are one row. The vectors are long, which makes the norm's epsilon vanish.
    """
    replay = Replay(model, f"{model.config.n_layers - 1}.resid_post")
    width = model.config.d_model
    packed = replay.pack([[0]] * width)
    rows = replay.logits(packed, 1024 * torch.eye(width, device=model.device)) / width**0.5
    return rows.sub_(rows.mean(1, keepdim=True))


def silent_tokens(model: LanguageModel) -> Tensor:
    """Ids that never stand in plain text: special tokens, and rows of the embedding beyond the vocabulary."""
    beyond = range(model.tokenizer.vocab_size, model.config.vocab_size)
    return torch.tensor(sorted({*model.tokenizer.special.values(), *beyond}), dtype=torch.int64)


def output_scores(replay: Replay, sae: Autoencoder, latents: Tensor, maxima: Tensor, raised: Tensor) -> Tensor:
    """Output score of each latent, `[L]` float32 from 0 to 1.

    The latent is amplified by 10 times its maximum at the last token of a neutral prompt; the score is
    (1 - min rank / V) * max p over its raised tokens, ranks counted from 0.

    Args:
        latents: [L] int64.
        maxima: [L] largest observed value of each.
        raised: [L, 20] token ids of its logit lens.
    """
    prompt = replay.model.tokenizer.encode(NEUTRAL_PROMPT)
    x = replay.activations(replay.pack([prompt]))
    strength = AMPLIFICATION * maxima.to(x.device, torch.float32) * spread(sae, x[-1:])[0]
    scores = []
    with progress.progress("output scores", len(latents), "latents") as advance:
        for start in range(0, len(latents), CHUNK_LATENTS):
            part = slice(start, start + CHUNK_LATENTS)
            packed = replay.pack([prompt] * len(latents[part]))
            amplified = x.float().repeat(len(latents[part]), 1)
            directions = sae.W_dec[latents[part]].detach() / sae.output.scale
            amplified[packed.last] += strength[part, None] * directions.to(x.device)
            ends = replay.final(packed, amplified)[packed.last]
            for tokens, logits in zip(raised[part].split(HEAD_ROWS), replay.head(ends), strict=True):
                scores.append(_score(logits, tokens.to(logits.device)))
            advance(len(latents[part]))
    return torch.cat(scores).cpu() if scores else torch.zeros(0)


def _score(logits: Tensor, raised: Tensor) -> Tensor:
    best = logits.gather(1, raised).max(1).values
    rank = (logits > best[:, None]).sum(1)
    return (1 - rank / logits.shape[1]) * (best - logits.logsumexp(1)).exp()


def _to_residual(model: LanguageModel, hook_point: str) -> Tensor:
    """`[d, d_model]`: what a unit at the hook point writes into the residual stream.

    The identity everywhere but at `z`, whose way out is the attention's output matrix. A `.norm` is read as its point.
    """
    point = HookPoint.parse(hook_point, model.config.n_layers)
    width = point.width(model.config)
    basis = torch.eye(width, device=model.device)
    if point.site != "z":
        return basis
    out = f"{point.layer}.attn_out"
    packed = Replay(model, out).pack([[0]] * width)
    with model.hooks({f"{point.layer}.z": lambda own: basis.to(own)}):
        return model.activations(packed, [out])[out].float()
