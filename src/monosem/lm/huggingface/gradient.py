"""How far other activations move a transformers model's predictions, and which way is back.

Flow: the sentences pass in groups, few enough that all their logits can be held; in each the clean and the edited pass
run with the activations put in the place of the model's own, the edited one with gradients from there on.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from monosem.errors import ModelError
from monosem.lm.packed import Packed
from monosem.lm.tail import SMALLEST_LOG_P, Divergence

LOGITS = 1 << 26
"""Logits of one pass that are held at once: 256 MiB of them."""

Predict = Callable[[Packed, Tensor], Tensor]
"""`predict(packed, x [T, width]) -> [T, vocab]`: the logits of a pass that has `x` at the hook point."""


def kl_gradient(predict: Predict, vocab: int, x: Tensor, x_hat: Tensor, packed: Packed) -> Divergence:
    """`LanguageModel.kl_gradient` for any model that is differentiable behind the hook point."""
    predicting = int((packed.lengths - 1).clamp_min(0).sum())
    kl, gradient = 0.0, torch.zeros_like(x_hat, dtype=torch.float32)
    if not predicting:
        return Divergence(kl, gradient)
    for part, tokens in _groups(packed, max(1, LOGITS // vocab)):
        rows = (part.position[1:] > 0).nonzero().squeeze(1)  # the row before a token that is not its sentence's first
        with torch.no_grad():
            log_p = predict(part, x[tokens])[rows].log_softmax(-1)
        with torch.enable_grad():
            edited = x_hat[tokens].detach().clone().requires_grad_()
            log_q = predict(part, edited)[rows].log_softmax(-1)
            p = log_p.clamp_min(SMALLEST_LOG_P).exp()
            divergence = (p * (log_p - log_q)).sum()
            (of_sum,) = torch.autograd.grad(divergence, edited)
        kl += float(divergence.detach())
        gradient[tokens] = of_sum.float() / predicting
    return Divergence(kl / predicting, gradient)


def check_shapes(x: Tensor, x_hat: Tensor, packed: Packed, width: int) -> None:
    """Raise ModelError unless both are `[T, width]`."""
    for name, values in (("x", x), ("x_hat", x_hat)):
        if values.shape != (packed.n_tokens, width):
            raise ModelError(f"{name} has shape {list(values.shape)}, expected {[packed.n_tokens, width]}")


def _groups(packed: Packed, tokens: int) -> Iterator[tuple[Packed, slice]]:
    """Runs of whole sentences of at most `tokens` tokens, or of one sentence, and their place in the whole."""
    first = 0
    while first < packed.n_sentences:
        most = int(packed.offsets[first]) + tokens
        last = max(first + 1, int(torch.searchsorted(packed.offsets, most, right=True)) - 1)
        start, stop = int(packed.offsets[first]), int(packed.offsets[last])
        rows = slice(start, stop)
        if stop > start:
            yield Packed(packed.ids[rows], packed.position[rows], packed.offsets[first : last + 1] - start), rows
        first = last
