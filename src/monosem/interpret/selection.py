"""From what a pass kept to what the files hold: best, random and spread sentences of each latent, and silent ones.

Flow: piece by piece, a range of latents each, `chosen` gives the sentences that a latent fires in, outside of the test
set; `negatives` and `tests` add those in which it is silent, out of a `Pool`. Knows nothing of files or text.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from monosem.interpret import ranking
from monosem.interpret.collect import SAMPLE, TEST, Collector
from monosem.interpret.negatives import Negatives, Pool, Tokens, own_tokens
from monosem.interpret.ranking import Entries, rank_within
from monosem.recipe import ExamplesRecipe

DRAWN_FOR_EACH = 10  # quantile: sentences drawn for each one that is kept
LEAST_SAMPLE = 50  # sentences drawn, at least: a latent's own tokens are read off them
NO_TOKENS = Tokens(np.zeros(0, np.int32), np.zeros(0))


def sample_size(recipe: ExamplesRecipe) -> int:
    """Sentences that are drawn for each latent, of which `random` and `quantile` are a part."""
    return max(recipe.random, DRAWN_FOR_EACH * recipe.quantiles, LEAST_SAMPLE)


def chosen(collector: Collector, recipe: ExamplesRecipe) -> Iterator[dict[str, Entries]]:
    """Pieces of `examples.parquet`: by aggregation, entries by latent, then rank."""
    names = (*recipe.aggregations, SAMPLE)
    for parts in zip(*(collector.parts(name) for name in names), strict=True):
        *best, sample = parts
        sample = _with_strength(sample)
        rank = rank_within(sample.latent)
        spread = sample.take(np.flatnonzero(rank < DRAWN_FOR_EACH * recipe.quantiles))
        yield {
            **dict(zip(recipe.aggregations, best, strict=True)),
            "random": sample.take(np.flatnonzero(rank < recipe.random)),
            "quantile": quantiles(spread, recipe.quantiles),
        }


def negatives(collector: Collector, pool: Pool, most: int) -> Iterator[dict[str, Entries]]:
    """Pieces of `negatives.parquet`, by kind; latents that never fire have none."""
    for number, sample in enumerate(collector.parts(SAMPLE)):
        yield _silent(collector, number, sample, pool, most)


def tests(collector: Collector, pool: Pool, most: int) -> Iterator[dict[str, Entries]]:
    """Pieces of `test.parquet`, by kind."""
    for number, (sample, firing) in enumerate(zip(collector.parts(SAMPLE), collector.parts(TEST), strict=True)):
        yield {"firing": _with_strength(firing), **_silent(collector, number, sample, pool, most)}


def quantiles(entries: Entries, count: int) -> Entries:
    """Up to `count` of each latent's entries, evenly spread over the ranks of their scores, lowest first.

    Of M entries it is those in the middle of `count` equal parts; all of them where M <= count.
    """
    order = np.lexsort((entries.sentence, entries.score, entries.latent))
    latent = entries.latent[order]
    lengths = np.unique(latent, return_counts=True)[1]
    size, rank = np.repeat(lengths, lengths), rank_within(latent)
    part = -((size - 2 * rank * count) // (2 * size))  # the only i whose middle (2 i + 1) M / (2 count) may be at rank
    picked = (part < count) & ((2 * part + 1) * size // (2 * max(count, 1)) == rank)
    return entries.take(order[picked | (size <= count)])


def _with_strength(drawn: Entries) -> Entries:
    """Entries drawn by lot with their largest value in the place of the lot."""
    starts = np.cumsum(drawn.length, dtype=np.int64) - drawn.length
    strongest = np.maximum.reduceat(drawn.value, starts) if len(starts) else drawn.score
    return drawn._replace(score=strongest)


def _silent(collector: Collector, number: int, sample: Entries, pool: Pool, most: int) -> dict[str, Entries]:
    """By kind, the silent sentences of the latents of one part."""
    own = own_tokens(sample)
    first = number * ranking.RANGE
    latents = first + np.flatnonzero(collector.statistics.fire_count[first : first + ranking.RANGE])
    found = [pool.negatives(int(latent), own.get(int(latent), NO_TOKENS), most) for latent in latents]
    return {
        "hard": _entries(latents, [hard for hard, _ in found]),
        "silent": _entries(latents, [drawn for _, drawn in found]),
    }


def _entries(latents: NDArray[np.int64], found: Sequence[Negatives]) -> Entries:
    """Silent sentences as entries without tokens."""
    if not found:
        return ranking.empty()
    count = [len(one.sentence) for one in found]
    return ranking.empty()._replace(
        latent=np.repeat(latents, count).astype(np.int32),
        sentence=np.concatenate([one.sentence for one in found]),
        score=np.concatenate([one.value for one in found]),
        length=np.zeros(sum(count), np.int32),
    )
