"""What the latents see in a text that is there already: token by token, or as one figure for a concept.

The clean model reads; nothing is edited. Knows no way of showing things.
"""

from collections.abc import Collection, Sequence

import torch

from monosem.completion.completer import Completer, check_text
from monosem.completion.events import WrittenToken
from monosem.errors import ModelError


def read(completer: Completer, text: str, most: int) -> list[WrittenToken]:
    """The tokens of a text, each with at most `most` of the latents that fire at it, strongest first.

    Raises:
        ModelError: the text is empty, not UTF-8, or longer than the model's context.
    """
    check_text(text, "the text")
    if not text.strip():
        raise ModelError("the text is empty; write or paste some")
    model = completer.model
    ids = model.tokenizer.encode(text)
    if len(ids) > model.config.context_length:
        raise ModelError(
            f"the text has {len(ids):,} tokens; the model reads {model.config.context_length:,} at once: cut it"
        )
    codes, known = completer.codes(ids)
    values = torch.where(known[:, None], codes.values, 0)[:, :most].tolist()
    latents = codes.indices[:, :most].tolist()
    pieces = model.tokenizer.pieces(ids)
    tokens = []
    for token, piece, at, strengths in zip(ids, pieces, latents, values, strict=True):
        active = [completer.active(*pair) for pair in zip(at, strengths, strict=True) if pair[1] != 0]
        tokens.append(WrittenToken(token, piece, active))
    return tokens


def concept(completer: Completer, prompt: Sequence[int], new: Sequence[int], latents: Collection[int]) -> float | None:
    """How much of a concept is in the tokens `new` behind `prompt`: the mean over these tokens, and over `latents`, of
    a latent's code under the clean model as a share of its largest observed value. None where no maximum is known.
    """
    maxima = {latent: completer.maximum(latent) for latent in latents}
    known = {latent: largest for latent, largest in maxima.items() if largest}
    if not known or not new:
        return None
    codes, within = completer.codes([*prompt, *new])
    values = torch.where(within[:, None], codes.values, 0)[len(prompt) :]
    indices = codes.indices[len(prompt) :]
    shares = [(values * (indices == latent)).sum(1).mean().item() / largest for latent, largest in known.items()]
    return sum(shares) / len(shares)
