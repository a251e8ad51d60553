"""Completion of prompts by a run's language model, steered by its SAE's latents, with what the latents see in the text.

Flow: the edits are checked, the model writes under them, and one more pass reads the written text: the strongest
latents of every new token with their explanations. Edits act behind the hook point, so what is read there depends on
the text alone: these are the latents before any edit. Knows no way of showing things.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch

from monosem.errors import RunError
from monosem.interpret import cards
from monosem.lm.generate import Sampling, collect
from monosem.lm.packed import Packed
from monosem.lm.protocol import LanguageModel
from monosem.lm.source import open_model
from monosem.run import Run
from monosem.sae import files
from monosem.steering import Edit, Steering, observed_maxima, within


class ActiveLatent(NamedTuple):
    """A latent that fires at a token."""

    latent: int
    value: float
    share: float | None
    """Of its largest value on the corpus; None where that is not known."""
    explanation: str | None
    certainty: float | None


class ReadToken(NamedTuple):
    """A generated token and the latents that are most active at it, strongest first."""

    token: str
    latents: list[ActiveLatent]
    """Empty for an attention sink: the SAE never saw one."""


class Completion(NamedTuple):
    """What the model made of a prompt."""

    prompt: str
    text: str
    """Without the prompt."""
    tokens: list[ReadToken]
    """One for each new token; empty unless latents were asked for."""

    def as_json(self) -> dict[str, object]:
        """As an object for JSON."""
        tokens = [{"token": one.token, "latents": [latent._asdict() for latent in one.latents]} for one in self.tokens]
        return {"prompt": self.prompt, "text": self.text, "tokens": tokens}


class Completer:
    """A run's SAE and language model, ready to write.

    Args:
        model: the run's language model, if it is in memory already; else it is loaded when it is first needed.

    Raises:
        RunError: the run has no trained SAE.
        SaeError: its files are damaged.
    """

    def __init__(self, run: Run, model: LanguageModel | None = None) -> None:
        self._run, self._given = run, model
        folder: Path = run.folder("sae") / "final"
        if not folder.is_dir():
            raise RunError(f"{run.path}: has no trained SAE yet; make it with: monosem run {run.path}")
        self.sae = files.load(folder)
        self._maxima = observed_maxima(run, self.sae.config.n)

    def complete(
        self,
        prompts: Sequence[str],
        edits: Sequence[Edit] = (),
        sampling: Sampling | None = None,
        *,
        error_preserving: bool = True,
        show_latents: int = 0,
    ) -> list[Completion]:
        """Continue each prompt; they do not influence each other.

        Args:
            show_latents: how many latents to name at every new token. 0: none, and no pass is spent on it.

        Raises:
            SaeError: an edit does not fit the SAE; found before the model is loaded.
            ModelError: a prompt is empty or too long, or the sampling is out of range.
        """
        hook = Steering(self.sae, edits, self._maxima, error_preserving=error_preserving)
        tokenizer = self.model.tokenizer
        ids = [tokenizer.encode(prompt) for prompt in prompts]
        # no edit and no replacement: no hook, so that the plain text costs nothing more
        steered = {self._run.recipe.hook_point: hook} if edits or not error_preserving else {}
        with self.model.hooks(steered):
            new = collect(self.model.generate(ids, sampling or Sampling()), len(ids))
        read = self._read(ids, new, show_latents) if show_latents else [[] for _ in ids]
        return [
            Completion(prompt, tokenizer.decode(added), tokens)
            for prompt, added, tokens in zip(prompts, new, read, strict=True)
        ]

    @cached_property
    def model(self) -> LanguageModel:
        model = self._given or open_model(self._run.recipe.model)
        self.sae.to(model.device)
        return model

    def _read(self, prompts: list[list[int]], new: list[list[int]], most: int) -> list[list[ReadToken]]:
        """For every prompt its new tokens, each with its strongest latents."""
        hook_point = self._run.recipe.hook_point
        found = []
        for prompt, added in zip(prompts, new, strict=True):
            packed = Packed.pack([[*prompt, *added]], self.model.device)
            x = self.model.activations(packed, [hook_point])[hook_point][len(prompt) :]
            codes = self.sae.encode(x)  # strongest first
            values = torch.where(within(x, self.sae.config.norm_threshold)[:, None], codes.values, 0)[:, :most]
            found.append((values.tolist(), codes.indices[:, :most].tolist()))
        named = {latent for _, indices in found for row in indices for latent in row}
        explained = {row["latent"]: row for row in cards.read_explanations(self._run.path, named)}

        def active(latent: int, value: float) -> ActiveLatent:
            row = explained.get(latent, {})
            highest = float(self._maxima[latent]) if self._maxima is not None else 0.0
            share = value / highest if highest else None
            return ActiveLatent(latent, value, share, row.get("explanation"), row.get("certainty"))

        return [
            [
                ReadToken(token, [active(latent, value) for value, latent in zip(*pair, strict=True) if value > 0])
                for token, *pair in zip(self.model.tokenizer.pieces(added), values, indices, strict=True)
            ]
            for added, (values, indices) in zip(new, found, strict=True)
        ]
