"""The language model as a source of codes (`monosem.interpret.encoding.Source`): its sentences, read once in order."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from monosem.capture.units import units
from monosem.corpus.sentences import Sentences
from monosem.live.reading import Reading
from monosem.lm.protocol import LanguageModel
from monosem.run import Run
from monosem.store.shards import Rows

PART_TOKENS = 1 << 16
"""Of a part: its activations are held at once, and what an interruption loses is read again."""


class Parts:
    """All sentences of a run at the hook point that its SAE reads.

    Args:
        run: with its sentences.

    Raises:
        ModelError: the hook point does not exist.
    """

    def __init__(self, run: Run, model: LanguageModel) -> None:
        sentences = Sentences(run.folder("sentences"))
        self._reading = Reading(run.recipe, model, sentences)
        calibration = self._reading.calibrations[run.recipe.hook_point]
        self.d = calibration.d
        self._units = list(units(len(sentences), max(1, int(PART_TOKENS / calibration.tokens_per_sentence))))
        kept = self._reading.rows_a_sentence()
        self.part_rows = [round(kept * (unit.stop - unit.start)) for unit in self._units]

    def read(self, numbers: Iterable[int]) -> Iterator[tuple[int, Rows]]:
        """Raises StoreError: too many activations are not finite."""
        for number in numbers:
            unit, rows = self._units[number], []
            first = unit.start
            for part in self._reading.parts(self._reading.ids(np.arange(unit.start, unit.stop))):
                packed, chosen = part.packed, part.chosen
                sentence = packed.sentence[chosen] + first
                rows.append(Rows(part.rows[0], sentence, packed.position[chosen].int(), packed.ids[chosen].int()))
                first += packed.n_sentences
            yield number, Rows(*(torch.cat(column) for column in zip(*rows, strict=True)))
