"""The language model from one hook point on, with the activations there given.

`Replay` chooses its way by the hook point, once: block boundaries of the residual stream are resumed, which skips all
layers before; anywhere else the whole model runs with the value replaced by a hook. Either way every variant of a
measurement, the unedited one included, takes the same path, so equal activations give equal bits. The way stops at
the end of the residual stream; the head, whose output is wide, is then asked for the rows that are needed, in pieces.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from monosem.lm.hookpoints import HookPoint, require_before
from monosem.lm.packed import Packed
from monosem.lm.protocol import LanguageModel
from monosem.store.pairs import Sample

RESUMABLE = ("resid_pre", "resid_post")
HEAD_ROWS = 128  # whose values over the whole vocabulary are held at once: small enough that memory is reused


class Replay:
    """Reads a model's activations at `hook_point` and lets it go on from others.

    Args:
        source: the hook point that is read to make these others. None: the same.

    Raises:
        ModelError: a hook point does not exist, or the source comes after the other.
    """

    def __init__(self, model: LanguageModel, hook_point: str, source: str | None = None) -> None:
        self.model, self.hook_point, self.source = model, hook_point, source or hook_point
        if self.source != hook_point:
            require_before(self.source, hook_point)
        point = HookPoint.parse(hook_point, model.config.n_layers)
        self.resumes = point.site in RESUMABLE and not point.norm
        self._end = f"{model.config.n_layers - 1}.resid_post"

    def pack(self, sentences: Sequence[Sequence[int]]) -> Packed:
        """Sentences of token ids on the model's device."""
        return Packed.pack(sentences, self.model.device)

    def activations(self, packed: Packed) -> Tensor:
        """`[T, d]`, in the model's own type."""
        return self.model.activations(packed, [self.hook_point])[self.hook_point]

    def sample(self, packed: Packed) -> Sample:
        """What is read, and what the hook point has, in the model's own type."""
        found = self.model.activations(packed, list(dict.fromkeys((self.source, self.hook_point))))
        return Sample(found[self.source], found[self.hook_point])

    def final(self, packed: Packed, x: Tensor) -> Tensor:
        """`[T, d_model]`: the end of the residual stream where `x [T, d]` stands at the hook point."""
        if self.resumes:
            return self.model.activations(packed, [self._end], start=(self.hook_point, x))[self._end]
        with self.model.hooks({self.hook_point: lambda own: x.to(own)}):
            return self.model.activations(packed, [self._end])[self._end]

    def head(self, final: Tensor) -> Iterator[Tensor]:
        """Next-token logits `[<= HEAD_ROWS, vocab]` float32 of rows `[R, d_model]` of `final`, piece by piece."""
        for rows in final.split(HEAD_ROWS):
            yield self.model.resume(self._end, rows, self.pack([[0]] * len(rows)))

    def logits(self, packed: Packed, x: Tensor) -> Tensor:
        """`[T, vocab]` float32: all next-token logits; for few tokens."""
        return torch.cat(list(self.head(self.final(packed, x))))


def packs(sentences: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[Sequence[int]]]:
    """Runs of sentences of at most `batch_tokens` tokens, in order; a longer sentence stands alone."""
    waiting: list[Sequence[int]] = []
    tokens = 0
    for sentence in sentences:
        if waiting and tokens + len(sentence) > batch_tokens:
            yield waiting
            waiting, tokens = [], 0
        waiting.append(sentence)
        tokens += len(sentence)
    if waiting:
        yield waiting
