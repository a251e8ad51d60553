"""The same scores for latents of an untrained SAE: what the method finds in random directions.

Flow: random directions with as many active latents a token encode a part of the sample anew; some of these latents,
and as many of the SAE's own on the very same sentences, are explained by terms and by patterns and graded. Explanations
come from the sentences that are not reserved, as everywhere.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monosem.interpret import encoding
from monosem.interpret.codes import Codes, StoredCodes
from monosem.interpret.firing_tokens import Example
from monosem.interpret.lexical import Lexicon, of_sentence
from monosem.interpret.ngrams import TermIndex
from monosem.interpret.score import sample, token_score
from monosem.interpret.score.detection import Detection
from monosem.interpret.score.held_out import Reserved, Shown, Text
from monosem.interpret.score.n2g import Learner
from monosem.interpret.score.rows import Row
from monosem.interpret.score.sample import Sample, evenly
from monosem.interpret.score.term_places import Terms
from monosem.sae.autoencoder import Autoencoder
from monosem.store import shards
from monosem.store.shards import Shards

TOP = 50  # examples of a latent, by largest value
DRAWN = 40  # further ones, at random
SENTENCES = 50  # of a test set, firing and silent ones each


class Grader:
    """Explains and grades latents on a sample alone.

    Args:
        texts: of the sample's sentences, in order, with their spans.
        reserved: [S] sentences that explanations do not see.
        terms: most terms of an explanation.
    """

    def __init__(
        self, texts: Sequence[Text], reserved: NDArray[np.bool_], terms: int, shuffles: int, seed: int
    ) -> None:
        self._texts, self._reserved, self._terms = texts, reserved, terms
        self._shuffles, self._seed = shuffles, seed
        self._seen = np.flatnonzero(~reserved).tolist()
        seen = [texts[i] for i in self._seen]
        index = TermIndex.build([text.text for text in seen], [(text.starts, text.ends) for text in seen])
        self._lexicon = Lexicon(index, np.ones(len(seen), dtype=bool), seed)

    def grade(self, graded: Sample, most: int) -> list[Row]:
        """The rows of `most` latents that fire, evenly spread."""
        live = np.flatnonzero(graded.counts() > 0)
        latents = live[evenly(len(live), most)].tolist()
        told = {latent: self._explained(graded, latent) for latent in latents}
        terms = {latent: {term["text"]: 1.0 for term in of_sentence(one)} for latent, one in told.items()}
        tests = [self._test(graded, latent) for latent in latents]
        texts = {self._texts[i].number: self._texts[i] for i in np.flatnonzero(self._reserved).tolist()}
        detection = Detection("lexical", terms, texts, self._shuffles, self._seed)
        learner = Learner(graded, self._reserved)
        patterns = {latent: learner.learn(latent) for latent in latents}
        by_token = token_score.of_patterns(graded, self._reserved, patterns, self._shuffles, self._seed)
        by_term = token_score.of_terms(graded, self._texts, self._reserved, told, self._shuffles, self._seed)
        return [
            row
            for test in tests
            for row in (*detection.judge(test), *by_token.judge(test.latent), *by_term.judge(test.latent))
        ]

    def _explained(self, graded: Sample, latent: int) -> Terms:
        """The terms of an explanation; none where there is no explanation."""
        inside = [shown for number, shown in self._fires(graded, latent) if not self._reserved[number]]
        ranked = sorted(inside, key=lambda shown: -shown.strength)
        drawn = np.random.default_rng((self._seed, latent)).permutation(np.arange(TOP, max(len(ranked), TOP)))[:DRAWN]
        best = ranked[:TOP] + [ranked[i] for i in drawn.tolist()]
        place = {self._texts[number].number: i for i, number in enumerate(self._seen)}
        examples = [Example(place[one.sentence], one.positions, one.values) for one in best]
        return [term._asdict() for term in self._lexicon.explain(latent, examples, self._terms).terms]

    def _test(self, graded: Sample, latent: int) -> Reserved:
        """Reserved sentences drawn evenly, firing and silent."""
        fires = {number: shown for number, shown in self._fires(graded, latent) if self._reserved[number]}
        rng = np.random.default_rng((self._seed, latent))
        order = rng.permutation(np.flatnonzero(self._reserved)).tolist()
        firing = [fires[number] for number in order if number in fires][:SENTENCES]
        silent = [number for number in order if number not in fires][:SENTENCES]
        return Reserved(latent, [*firing, *(Shown(self._texts[i].number, "silent", 0.0) for i in silent)])

    def _fires(self, graded: Sample, latent: int) -> Iterator[tuple[int, Shown]]:
        """The sentences that a latent fires in."""
        place, value = graded.firings(latent)
        of = graded.of_place[place]
        position = place - graded.places.offsets[of]
        starts = np.flatnonzero(np.diff(of, prepend=-1))
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(of)], strict=True):
            number = int(of[start])
            values = value[start:stop].tolist()
            at = position[start:stop].tolist()
            yield number, Shown(self._texts[number].number, "firing", max(values), at, values)


@torch.no_grad()
def untrained(sae: Autoencoder, seed: int, x: Tensor) -> Autoencoder:
    """Random directions that share shape, sparsity and normalisation with an SAE; only good for encoding.

    Args:
        x: [B, d] activations, whose mean is taken off.
    """
    random = sae.like(torch.Generator().manual_seed(seed))
    z = random.normalise(x).z
    random.b_pre.copy_(z.mean(0))
    random.start_thresholds(z - random.b_pre)
    return random


def encoded(encoder: Autoencoder, codes: StoredCodes, store: Shards, most: int) -> Iterator[Codes]:
    """The codes that another SAE gives the sentences of `sample.read`, file by file.

    Args:
        store: the activations that `codes` was made of.
    """
    numbers = {shard.name: number for number, shard in enumerate(codes.shards)}
    for shard, which in sample.plan(codes, most):
        rows = shards.read(store.paths[numbers[shard.name]])
        wanted = torch.from_numpy(np.isin(rows.sentence.numpy(), codes.sentences_of(shard)[which]))
        yield encoding.encode(encoder, shards.Rows(*(column[wanted] for column in rows)))
