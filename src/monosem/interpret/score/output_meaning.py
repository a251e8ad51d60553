"""What a latent does, in words, beside what it reacts to: the words that steering brings into texts.

Flow: the words of the texts written under a latent's direction are compared with those of all other texts, plain ones
and those under other directions, by log-odds; the most over-represented ones are the output meaning. Whether it agrees
with the input meaning is measured by `detection`, with the tokens that the latent raises as terms: do they stand in the
sentences in which it fires? Knows no model.
"""

from collections import Counter
from collections.abc import Sequence
from math import log, sqrt

from monosem.interpret.ngrams import units

MIN_Z = 1.5
PRIOR = 20.0  # words that the prior weighs as much as, spread as in all texts


def contrast(steered: Sequence[str], others: Sequence[str], most: int) -> list[str]:
    """Up to `most` words of the texts `steered` that the `others` hold less often, most over-represented first.

    A word counts once a text. Log-odds with an informative Dirichlet prior (Monroe, Colaresi & Quinn 2008).
    """
    here, rest = _counts(steered), _counts(others)
    size_here, size_rest = sum(here.values()), sum(rest.values())
    total = size_here + size_rest
    if len(here.keys() | rest.keys()) < 2:
        return []
    found = []
    for word, count in here.items():
        prior = PRIOR * (count + rest[word]) / total
        odds_here = (count + prior) / (size_here + PRIOR - count - prior)
        odds_rest = (rest[word] + prior) / (size_rest + PRIOR - rest[word] - prior)
        z = log(odds_here / odds_rest) / sqrt(1 / (count + prior) + 1 / (rest[word] + prior))
        if z >= MIN_Z:
            found.append((-z, word))
    return [word for _, word in sorted(found)[:most]]


def _counts(texts: Sequence[str]) -> Counter[str]:
    return Counter(word for text in texts for word in {unit.key for unit in units(text)} if word[0].isalnum())
