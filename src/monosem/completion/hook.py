"""The hooks of one generation: read the latents at every new token, and edit the rows that are steered.

Reading happens first, so what is read are the latents before the edit. Costs one encoding of each new token, no pass. A
transcoder is read at one hook point and edited at a later one of the same pass.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.lm.generate import Step
from monosem.lm.hooks import Hook
from monosem.lm.packed import Packed
from monosem.recipe import Recipe
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.codes import Codes
from monosem.steering import Steering, within


class Reading(NamedTuple):
    """The strongest latents of the token that a row wrote last."""

    row: int
    values: list[float]
    """Strongest first; none is 0."""
    latents: list[int]


class RowHook:
    """A hook that follows a generation, so that it knows whose activations it is handed.

    Args:
        steering: the edit. None: none.
        steered: for every row whether the edit applies to it.
        most: latents read at each new token. 0: none is read.
    """

    def __init__(self, sae: Autoencoder, steering: Steering | None, steered: Sequence[bool], most: int) -> None:
        self._sae, self._steering, self._most = sae, steering, most
        self._steered = torch.tensor(steered)
        self._rows = torch.zeros(0, dtype=torch.int64)
        self._reads = False
        self._readings: list[Reading] = []
        self._source: tuple[Tensor, Codes | None] | None = None

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return self._most > 0 or self._edits

    @property
    def _edits(self) -> bool:
        return self._steering is not None and bool(self._steered.any())

    def begin(self, prompts: Sequence[Sequence[int]]) -> None:
        """The next pass reads all prompts."""
        self._rows, self._reads = Packed.pack(prompts).sentence, False

    def follow(self, step: Step) -> None:
        """The next pass reads the tokens of `step` (`monosem.lm.generate.Step.rows`)."""
        reads_all = self._most > 0
        rows = [row for row, ended in zip(step.rows, step.ended, strict=True) if reads_all or not ended]
        self._rows, self._reads = torch.tensor(rows, dtype=torch.int64), reads_all

    def take(self) -> list[Reading]:
        """What the last pass read; a second call has nothing."""
        taken, self._readings = self._readings, []
        return taken

    def hooks(self, recipe: Recipe) -> dict[str, Hook]:
        """The functions for `model.hooks`; none where there is nothing to do."""
        if not self.needed:
            return {}
        if self._sae.config.transcodes:
            return {recipe.hook_point: self.watch, recipe.output_hook_point: self.edit}
        return {recipe.hook_point: self}

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor | None:
        """Both at one hook point."""
        self.watch(x)
        return self.edit(x)

    @torch.no_grad()
    def watch(self, x: Tensor) -> None:
        """What the SAE reads, `[T, d]`."""
        self._source = x, self._read(x) if self._reads else None

    @torch.no_grad()
    def edit(self, x: Tensor) -> Tensor | None:
        """The activations `[T, d_out]` that it writes to."""
        assert self._source is not None, "what is read comes before what is edited"
        (source, codes), self._source = self._source, None
        if self._steering is None:
            return None
        steered = self._steered[self._rows].to(x.device)
        if not steered.any():
            return None
        known = None if codes is None else _rows(codes, steered)
        x[steered] = self._steering(x[steered], known, source[steered] if self._sae.config.transcodes else None)
        return x

    def _read(self, x: Tensor) -> Codes:
        device = self._sae.W_enc.device
        codes = self._sae.encode(x.to(device))  # strongest first
        known = within(x, self._sae.config.norm_threshold).to(device)
        values = torch.where(known[:, None], codes.values, 0)[:, : self._most]
        for row, strengths, latents in zip(
            self._rows.tolist(), values.tolist(), codes.indices[:, : self._most].tolist(), strict=True
        ):
            active = sum(value != 0 for value in strengths)
            self._readings.append(Reading(row, strengths[:active], latents[:active]))
        return codes


def _rows(codes: Codes, chosen: Tensor) -> Codes:
    """The codes of some rows."""
    chosen = chosen.to(codes.values.device)
    mean, std = (None if part is None else part[chosen] for part in (codes.mean, codes.std))
    return Codes(codes.values[chosen], codes.indices[chosen], codes.n, mean, std)
