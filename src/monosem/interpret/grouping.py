"""Whether a latent's examples are alike, and which groups they fall into.

Flow: each example becomes a vector of the words around the token where the latent fires most, rare words weighing more
(tf-idf, length 1); from the cosines of all pairs come the groups (average linkage) and the monosemanticity. Knows
nothing of files or models.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from monosem.interpret.firing_tokens import Example
from monosem.interpret.lexical import Lexicon
from monosem.interpret.ngrams import Ints

WINDOW = 8  # words on either side of the firing token
TELLING = 5  # words that describe a group
MOST_GROUPS = 8
LEAST_EXAMPLES = 4


class Group(NamedTuple):
    """Examples that are alike."""

    share: float
    """Of all the latent's examples."""
    words: list[str]
    """Words that weigh more in it than in the other examples, most telling first."""
    places: list[int]
    """Its sentences in the lexicon's index, most typical first."""


class Alike(NamedTuple):
    """How much alike a latent's examples are."""

    groups: list[Group]
    """Of two examples at least; largest first."""
    monosemanticity: float | None
    """Mean cosine of all pairs, weighted by the product of their values; None for too few examples."""
    random: float | None
    """The same of random sentences of the corpus with these weights."""


def compare(lexicon: Lexicon, examples: Sequence[Example], similarity: float, seed: tuple[int, int]) -> Alike:
    """Compare a latent's examples with each other.

    The measure is the monosemanticity score of Pach et al. 2025 ("Sparse autoencoders learn monosemantic features in
    vision-language models", arXiv 2504.02821, section 3.2), with word vectors in the place of image embeddings.

    Args:
        similarity: mean cosine from which two groups are joined.
        seed: decides the random sentences.
    """
    if len(examples) < LEAST_EXAMPLES:
        return Alike([], None, None)
    strength = np.array([max(example.values) for example in examples])
    vectors, terms = _vectors(lexicon, [_centre(lexicon, example) for example in examples])
    cosine = vectors @ vectors.T
    by_chance, _ = _vectors(lexicon, lexicon.random_units(len(examples), seed))
    return Alike(
        _groups(lexicon, examples, vectors, terms, cosine, similarity),
        weighted_mean(cosine, strength),
        weighted_mean(by_chance @ by_chance.T, strength),
    )


def weighted_mean(cosine: NDArray[np.float64], strength: NDArray[np.float64]) -> float:
    """Mean of the pairs of different rows, each weighted by the product of the two strengths."""
    weight = np.outer(strength, strength)
    np.fill_diagonal(weight, 0)
    return float((cosine * weight).sum() / weight.sum())


def _centre(lexicon: Lexicon, example: Example) -> int:
    """The unit in which the latent fires most; white space counts as the unit at hand."""
    index = lexicon.index
    token = index.token_offsets[example.sentence] + example.positions[int(np.argmax(example.values))]
    unit = int(index.token_unit[token])
    first, stop = index.unit_offsets[example.sentence : example.sentence + 2]
    return unit if unit >= 0 else int(min(first + (token - index.token_offsets[example.sentence]), stop - 1))


def _vectors(lexicon: Lexicon, centres: Sequence[int] | Ints) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """[centres, words] vectors of length 1 of the words around units, and the terms of their columns."""
    index = lexicon.index
    sentence = np.searchsorted(index.unit_offsets, centres, side="right") - 1
    near = [
        index.grams[0, max(centre - WINDOW, first) : min(centre + WINDOW + 1, stop)]
        for centre, first, stop in zip(
            centres, index.unit_offsets[sentence], index.unit_offsets[sentence + 1], strict=True
        )
    ]
    holder = np.repeat(np.arange(len(near)), [len(words) for words in near])
    word = np.concatenate([*near, np.zeros(0, np.int64)])
    kept = index.is_word[word]
    terms, column = np.unique(word[kept], return_inverse=True)
    vectors = np.zeros((len(near), len(terms)))
    vectors[holder[kept], column] = lexicon.rarity(terms)[column]
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), terms


def _groups(
    lexicon: Lexicon,
    examples: Sequence[Example],
    vectors: NDArray[np.float64],
    terms: NDArray[np.int64],
    cosine: NDArray[np.float64],
    similarity: float,
) -> list[Group]:
    distance = np.clip(1 - cosine, 0, None)
    np.fill_diagonal(distance, 0)
    number = fcluster(linkage(squareform(distance, checks=False), "average"), 1 - similarity, "distance")
    groups = [members for members in map(np.flatnonzero, number == np.unique(number)[:, None]) if len(members) > 1]
    total = vectors.sum(0)
    found = []
    for members in sorted(groups, key=lambda members: (-len(members), members[0]))[:MOST_GROUPS]:
        typical = members[np.argsort(-cosine[np.ix_(members, members)].sum(1), kind="stable")]
        inside = vectors[members].sum(0)
        excess = inside / len(members) - (total - inside) / max(len(examples) - len(members), 1)
        telling = [i for i in np.argsort(-excess, kind="stable")[:TELLING] if excess[i] > 0]
        places = [examples[m].sentence for m in typical]
        words = [_surface(lexicon, int(terms[i]), places) for i in telling]
        found.append(Group(len(members) / len(examples), words, places))
    return found


def _surface(lexicon: Lexicon, term: int, places: Sequence[int]) -> str:
    """A word as the first of these sentences that holds it writes it."""
    holder = next(place for place in places if term in lexicon.index.by_sentence.of(place))
    return lexicon.index.surface(term, holder)
