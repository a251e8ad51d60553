"""Where in a sentence a latent fires, in rules that a reader understands: its first token, its last, its first quarter.

Flow: a rule looks at the number of a token and the length of its sentence, in tokens as the model read them, so that it
holds in every language and script; `Background.choose` finds the rules that tell the tokens where a latent fires from
all tokens of a corpus. The name of a rule is its text in an explanation. Knows no words.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monosem.interpret.ngrams import Ints

Bools = NDArray[np.bool_]
FROM_START, FROM_END = 8, 4  # tokens with a rule of their own
MIN_GAIN = 0.6  # of Youden's J over tokens: less is no rule
MIN_MORE = 0.1  # that a further rule adds
MOST = 3  # rules of an explanation


def _rules() -> dict[str, Callable[[Ints, Ints], Bools]]:
    """By name: of tokens, given by their numbers from 0 and their sentences' lengths, whether they stand there."""
    named: dict[str, Callable[[Ints, Ints], Bools]] = {}
    for i in range(FROM_START):
        name = "first token of the sentence" if i == 0 else f"token {i + 1} of the sentence"
        named[name] = lambda position, length, i=i: (position == i) & (length > i)
    for i in range(FROM_END):
        name = "last token of the sentence" if i == 0 else f"token {i + 1} from the end of the sentence"
        named[name] = lambda position, length, i=i: position == length - 1 - i
    named["first quarter of the sentence"] = lambda position, length: 4 * position < length
    named["last quarter of the sentence"] = lambda position, length: 4 * (length - 1 - position) < length
    return named


RULES = _rules()
"""Names have more words than any n-gram of an explanation, so that they are never taken for one."""


class Found(NamedTuple):
    """A rule that holds where a latent fires."""

    name: str
    z: float
    """Share of the firing tokens above the corpus's, over its standard deviation."""
    share: float
    """Of the firing tokens, that it holds of."""
    corpus_share: float
    """The same of all tokens of the corpus."""


class Background:
    """All tokens of a corpus, counted by their place.

    Args:
        lengths: [S] tokens of each sentence.
    """

    def __init__(self, lengths: Ints) -> None:
        length, sentences = np.unique(lengths[lengths > 0], return_counts=True)
        self._length = np.repeat(length, length)
        self._position = np.concatenate([np.zeros(0, np.int64), *map(np.arange, length.tolist())])
        self._weight = np.repeat(sentences, length) / max(int(lengths.sum()), 1)
        self._held = {name: rule(self._position, self._length) for name, rule in RULES.items()}

    def share(self, names: Sequence[str]) -> float:
        """Of all tokens, those that any of the rules holds of."""
        return float(self._weight[np.any([self._held[name] for name in names], axis=0)].sum())

    def choose(self, position: Ints, length: Ints) -> list[Found]:
        """The rules, best first, that together tell these tokens from the corpus; none that hardly does.

        Args:
            position: [T] numbers of the firing tokens in their sentences.
            length: [T] of these sentences.
        """
        here = {name: rule(position, length) for name, rule in RULES.items()}
        told, gain = np.zeros(len(position), dtype=bool), 0.0
        chosen: list[str] = []
        while len(chosen) < MOST:
            reach = {name: float((told | held).mean()) for name, held in here.items() if name not in chosen}
            gains = {
                name: share - self.share([*chosen, name]) for name, share in reach.items() if share > gain + MIN_MORE
            }
            if not gains or max(gains.values()) < gain + MIN_MORE:
                break
            best = max(gains, key=gains.__getitem__)
            gain = gains[best]
            told |= here[best]
            chosen.append(best)
        return [self._found(name, position, length) for name in chosen] if gain >= MIN_GAIN else []

    def gain(self, names: Sequence[str], position: Ints, length: Ints) -> float:
        """Youden's J of the rules together: share of these tokens that they hold of, minus that of the corpus."""
        return float(stand(names, position, length).mean()) - self.share(names)

    def _found(self, name: str, position: Ints, length: Ints) -> Found:
        share, usual = float(stand([name], position, length).mean()), self.share([name])
        spread = np.sqrt(max(usual * (1 - usual), 1e-12) / len(position))
        return Found(name, (share - usual) / float(spread), share, usual)


def stand(names: Sequence[str], position: Ints, length: Ints) -> Bools:
    """[T] the tokens that any of the rules holds of.

    Raises:
        KeyError: a name is no rule's.
    """
    held = np.zeros(len(position), dtype=bool)
    for name in names:
        held |= RULES[name](position, length)
    return held


@lru_cache(maxsize=4096)
def within(length: int) -> frozenset[str]:
    """The rules that hold of any token of a sentence of so many tokens."""
    position = np.arange(length)
    return frozenset(name for name, rule in RULES.items() if rule(position, np.full(length, length)).any())
