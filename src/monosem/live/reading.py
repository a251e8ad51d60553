"""The language model's activations on sentences, as capture would store them, without a store.

Norm thresholds are measured on the same sentences as capture measures them on. A token that is dropped at one of the
hook points is dropped at all of them.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monosem.capture.calibration import LENGTH_SENTENCES, NORM_SENTENCES, Calibration
from monosem.capture.reading import Captured, read
from monosem.capture.stage import MAX_NONFINITE
from monosem.capture.writing import drops
from monosem.corpus import tokens
from monosem.corpus.sentences import Sentences
from monosem.errors import StoreError
from monosem.live.ring import Rows
from monosem.lm.packed import Packed
from monosem.lm.protocol import LanguageModel
from monosem.recipe import Recipe
from monosem.store.encoding import Stored

PACKS = 8  # batches of the model that are held beside the ring at one time


class Part(NamedTuple):
    """What is kept of some sentences."""

    packed: Packed
    """The sentences."""
    chosen: Tensor
    """[R] int64: which of their tokens are kept."""
    rows: Rows
    """Their activations."""


class Reading:
    """Reads sentences at the hook points that a recipe's SAE is trained on.

    Raises:
        ModelError: a hook point does not exist.
    """

    def __init__(self, recipe: Recipe, model: LanguageModel, sentences: Sentences) -> None:
        self._capture, self._max_tokens = recipe.capture, recipe.corpus.max_tokens
        self._points, self._model, self._sentences = recipe.trained_on, model, sentences
        self._dtype: torch.dtype = getattr(torch, recipe.capture.dtype)
        lengths = [len(ids) for ids in self.ids(self._spread(LENGTH_SENTENCES))]
        captured = self._captured(self.ids(self._spread(NORM_SENTENCES)), {})
        self.calibrations = {
            name: Calibration.of(there.here(), sum(lengths) / len(lengths), 1, self._capture.max_norm_ratio)
            for name, there in captured.items()
        }

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations that are read: as capture stores them, int8 decoded."""
        return torch.float32 if self._dtype == torch.int8 else self._dtype

    def ids(self, sentences: NDArray[np.int64]) -> list[list[int]]:
        """Tokens of sentences by their numbers."""
        texts = self._sentences.take(sentences, columns=["text"])["text"].to_pylist()
        return tokens.encode(self._model.tokenizer, texts, self._max_tokens)

    def rows(self, ids: Sequence[Sequence[int]]) -> Iterator[Rows]:
        """The activations of sentences that are kept, in parts of a few thousand, in order. Raises as `parts`."""
        return (part.rows for part in self.parts(ids))

    def parts(self, ids: Sequence[Sequence[int]]) -> Iterator[Part]:
        """What is kept of sentences, in parts of a few thousand tokens, in order.

        Raises:
            StoreError: too many of them are not finite.
        """
        formats = {name: calibration.format(self._dtype) for name, calibration in self.calibrations.items()}
        for part in _parts(ids, PACKS * self._capture.batch_tokens):
            captured = self._captured(part, formats)
            packed = Packed.pack(part)
            left_out = [
                drops(captured[name], packed.position, self.calibrations[name].norm_threshold, self._capture.drop_first)
                for name in self._points
            ]
            if sum(int(each.nonfinite.sum()) for each in left_out) > max(1, MAX_NONFINITE * packed.n_tokens):
                raise StoreError(
                    f"too many activations of {', '.join(self._points)} are not finite; set model.dtype = 'float32' "
                    "and capture.dtype = 'float32'"
                )
            chosen = (~torch.stack([each.any for each in left_out]).any(0)).nonzero().squeeze(1)
            rows = tuple(
                there.form.decode(Stored(*(tensor[chosen.to(tensor.device)] for tensor in there.stored)))
                for there in (captured[name] for name in self._points)
            )
            yield Part(packed, chosen, rows)

    def rows_a_sentence(self) -> float:
        """Activations that are kept of a sentence, on average over a few."""
        ids = self.ids(self._spread(NORM_SENTENCES))
        kept = sum(len(part[0]) for part in self.rows(ids))
        return kept / sum(map(len, ids)) * next(iter(self.calibrations.values())).tokens_per_sentence

    def _captured(self, ids: Sequence[Sequence[int]], formats: dict) -> dict[str, Captured]:
        return read(self._model, ids, self._points, formats, self._capture.batch_tokens, lambda _: None)

    def _spread(self, count: int) -> NDArray[np.int64]:
        return np.linspace(0, len(self._sentences) - 1, min(count, len(self._sentences))).astype(np.int64)


def _parts(ids: Sequence[Sequence[int]], most: int) -> Iterator[Sequence[Sequence[int]]]:
    """Consecutive sentences of about `most` tokens."""
    start = filled = 0
    for stop, sentence in enumerate(ids, start=1):
        filled += len(sentence)
        if filled >= most or stop == len(ids):
            yield ids[start:stop]
            start, filled = stop, 0
