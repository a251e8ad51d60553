"""What the rest of the house asks of a language model, whoever implements it.

`Llama` is ours; any other causal LM stands behind the same protocol. All of it is inference, but for the one gradient
of `kl_gradient`; no weight of a model ever has one.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from monosem.lm.config import ModelConfig
from monosem.lm.generate import Sampling, Step
from monosem.lm.hooks import Hook
from monosem.lm.packed import Packed
from monosem.lm.tail import Divergence
from monosem.lm.tokenizer import Tokenizer


class LanguageModel(Protocol):
    """A causal language model on packed sentences, open at its hook points (`monosem.lm.hookpoints`)."""

    @property
    def name(self) -> str: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...

    def logits(self, packed: Packed) -> Tensor:
        """Return the next-token logits `[T, vocab]`, fp32."""
        ...

    def activations(
        self, packed: Packed, hook_points: Sequence[str], start: tuple[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the activations `[T, width]` at each hook point, in one pass that ends behind the deepest of them.

        They are the values the model goes on with: edited, where a hook edits. With `start`, a residual hook point and
        the activations `[T, d]` there, the pass begins as `resume` does.

        Raises:
            ModelError: a hook point does not exist.
        """
        ...

    def resume(self, hook_point: str, activations: Tensor, packed: Packed) -> Tensor:
        """Return the logits `[T, vocab]` of a pass that has `activations [T, d]` at a residual hook point.

        Runs only what follows. Hooks apply, those at `hook_point` itself included. `activations` is left as it is.

        Raises:
            ModelError: the hook point does not exist or is not `L.resid_pre` or `L.resid_post`, or the shape differs.
        """
        ...

    def hooks(self, hooks: Mapping[str, Hook]) -> AbstractContextManager[None]:
        """Read or edit at hook points in every pass begun inside the `with`; nested contexts add up.

        `fn(x [T, width])` owns `x`; it returns what the model goes on with, or None when it only looked.

        Raises:
            ModelError: a hook point does not exist.
        """
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int] | None = None
    ) -> Iterator[Step]:
        """Continue the prompts, one step for all rows at a time, under the hooks active at the call.

        A row's text depends on its prompt and its seed (`seeds`, else `sampling.seed` for every row), not on the batch.

        Raises:
            ModelError: at once, for an empty prompt or one that leaves no room for the new tokens in the context.
        """
        ...

    def kl_gradient(self, hook_point: str, x: Tensor, x_hat: Tensor, packed: Packed) -> Divergence:
        """Return KL(clean || edited) of the next token's distribution, and its gradient `[T, width]` at the hook point.

        Hooks that are active take no part in what follows the hook point.

        Args:
            x: `[T, width]` the clean activations there.
            x_hat: `[T, width]` those of the edited pass.

        Raises:
            ModelError: the hook point does not exist or has no gradient, a shape differs, or a sentence is too long.
        """
        ...
