"""The questions that grade an explanation through a judge: detection, fuzzing, intruder, simulation.

Flow: a latent's test set and an explanation become trials: a request, how its answer is read, and the truth. Sentences
are asked about several at a time, firing and silent ones mixed. Random places and orders depend on the seed and the
latent alone (arXiv 2410.13928). Knows no provider.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from monosem.interpret.providers.protocol import Request
from monosem.interpret.score import questions
from monosem.interpret.score.held_out import Reserved, Shown, Text

Score = Literal["detection", "fuzzing", "intruder", "simulation"]
SCORES: tuple[Score, ...] = ("detection", "fuzzing", "intruder", "simulation")
MARKED = 0.5  # of a sentence's highest value: tokens that fire at least so much are marked
GROUP = 5  # sentences of an intruder trial, the intruder included


@dataclass(frozen=True)
class Trial:
    """One question."""

    latent: int
    score: Score
    own: bool
    """About the latent's own explanation; else another latent's."""
    request: Request
    read: Callable[[str], list[float]]
    """The answer's numbers, one for each item.

    Raises:
        AnswerError: the answer is not what was asked for.
    """
    truth: tuple[float, ...]
    """Of each item: the value there, 0 for silence. Of an intruder trial, a single item: which sentence it is."""


class Trials:
    """Makes the trials of one latent.

    Args:
        test: its reserved sentences; at most `sentences` firing and as many silent ones are asked about.
        texts: of the sentences, by number.
        batch: sentences in one question.
        prefix: of every request's id.
    """

    def __init__(
        self, test: Reserved, texts: dict[int, Text], *, sentences: int, batch: int, seed: int, prefix: str
    ) -> None:
        self.latent, self._texts, self._batch, self._prefix = test.latent, texts, batch, prefix
        self._firing, self._silent = test.of("firing")[:sentences], test.of("silent")[:sentences]
        self._seed = seed

    def make(self, score: Score, explanation: str, own: bool = True) -> list[Trial]:
        """The trials of one score; none where the latent lacks firing or silent sentences."""
        if not self._firing or not self._silent:
            return []
        rng = np.random.default_rng((self._seed, self.latent, SCORES.index(score)))
        if score == "intruder":
            return self._intruders(rng)
        if score == "simulation":
            return self._simulations(explanation, own)
        return self._likelihoods(score, explanation, own, rng)

    def _likelihoods(self, score: Score, explanation: str, own: bool, rng: np.random.Generator) -> list[Trial]:
        shown = [*self._firing, *self._silent]
        texts = [self._text(one) for one in shown] if score == "detection" else self._fuzzed(rng)
        order = rng.permutation(len(shown))
        trials = []
        for number, part in enumerate(np.array_split(order, -(-len(order) // self._batch))):
            id_ = self._id(score, own, number)
            request = questions.likelihoods(id_, score, explanation, [texts[i] for i in part])
            read = _reader("likelihood", len(part), 100)
            trials.append(Trial(self.latent, score, own, request, read, tuple(shown[i].strength for i in part)))
        return trials

    def _fuzzed(self, rng: np.random.Generator) -> list[str]:
        """Firing sentences with their true marks, then silent ones with as many marks at random places."""
        counts = [len(strong(one)) for one in self._firing]
        marked = [mark(self._texts[one.sentence], strong(one)) for one in self._firing]
        return marked + [self._falsely(one, int(rng.choice(counts)), rng) for one in self._silent]

    def _falsely(self, shown: Shown, count: int, rng: np.random.Generator) -> str:
        text = self._texts[shown.sentence]
        known = np.setdiff1d(np.arange(len(text.starts)), text.missing)
        places = known if len(known) else np.arange(len(text.starts))
        return mark(text, rng.choice(places, min(count, len(places)), replace=False).tolist())

    def _intruders(self, rng: np.random.Generator) -> list[Trial]:
        """Groups of firing sentences, none used twice, each with a silent one at a random place."""
        trials = []
        groups = min(len(self._firing) // (GROUP - 1), len(self._silent))
        counts = [len(strong(one)) for one in self._firing]
        for number in range(groups):
            members = self._firing[number * (GROUP - 1) : (number + 1) * (GROUP - 1)]
            shown = [mark(self._texts[one.sentence], strong(one)) for one in members]
            at = int(rng.integers(GROUP))
            shown.insert(at, self._falsely(self._silent[number], int(rng.choice(counts)), rng))
            request = questions.intruder(self._id("intruder", True, number), shown)
            trials.append(Trial(self.latent, "intruder", True, request, _choice, (float(at),)))
        return trials

    def _simulations(self, explanation: str, own: bool) -> list[Trial]:
        trials = []
        for number, shown in enumerate([*self._firing, *self._silent]):
            text = self._texts[shown.sentence]
            tokens = [text.text[start:end] for start, end in zip(text.starts, text.ends, strict=True)]
            request = questions.simulation(self._id("simulation", own, number), explanation, tokens)
            values = dict(zip(shown.positions, shown.values, strict=True))
            unknown = set(text.missing)
            truth = (float("nan") if i in unknown else values.get(i, 0.0) for i in range(len(tokens)))
            read = _reader("values", len(tokens), 10)
            trials.append(Trial(self.latent, "simulation", own, request, read, tuple(truth)))
        return trials

    def _text(self, shown: Shown) -> str:
        return self._texts[shown.sentence].text

    def _id(self, score: Score, own: bool, number: int) -> str:
        return f"{self._prefix}-L{self.latent}-{score}-{'own' if own else 'other'}-{number}"


def strong(shown: Shown) -> list[int]:
    """The tokens where the latent fires at least half as strongly as at its strongest place in the sentence."""
    return [i for i, value in zip(shown.positions, shown.values, strict=True) if value >= MARKED * shown.strength]


def mark(text: Text, positions: Sequence[int]) -> str:
    """The sentence with tokens marked `<<so>>`; marks of neighbours are joined, white space before a token left out."""
    pieces, at = [], 0
    inside = False
    for position in sorted(positions):
        start, end = text.starts[position], text.ends[position]
        core = text.text[start:end]
        if inside and start <= at:
            pieces.append(text.text[at:end])
        else:
            first = end - len(core.lstrip()) if core.strip() else start
            pieces += [">>" * inside, text.text[at:first], "<<", text.text[first:end]]
        inside, at = True, end
    return "".join([*pieces, ">>" * inside, text.text[at:]])


def _reader(key: str, count: int, highest: int) -> Callable[[str], list[float]]:
    return lambda answer: questions.read_numbers(answer, key, count, highest)


def _choice(answer: str) -> list[float]:
    return [float(questions.read_choice(answer, GROUP))]


def known(truth: Sequence[float]) -> NDArray[np.bool_]:
    """Which items have a truth."""
    return ~np.isnan(np.asarray(truth, dtype=np.float64))
