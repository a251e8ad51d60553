"""What the parts of the stage `score` read of a run, each thing once. Computes no score."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import log
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from monosem.corpus.sentences import Sentences
from monosem.interpret import cards, encoding, tables
from monosem.interpret.codes import StoredCodes
from monosem.interpret.draws import is_test
from monosem.interpret.lexical import of_sentence
from monosem.interpret.score import held_out
from monosem.interpret.score.held_out import Reserved, Text
from monosem.interpret.score.sample import Sample, evenly, read
from monosem.lm.source import open_tokenizer
from monosem.lm.tokenizer import Tokenizer
from monosem.run import Run

LEAST_WEIGHT = 0.1  # of a term that is found: what it says must not vanish


class Inputs:
    """A run that has been explained and evaluated."""

    def __init__(self, run: Run) -> None:
        self.run, self.recipe = run, run.recipe.score
        self.examples = run.folder("examples")

    @cached_property
    def live(self) -> list[int]:
        """The latents that fire on the store, ascending."""
        return np.flatnonzero(self.largest > 0).tolist()

    @cached_property
    def largest(self) -> NDArray[np.float32]:
        """[n] largest value of every latent on the store."""
        return cards.read_statistics(self.run.path)["max"].to_numpy()

    @cached_property
    def _explained(self) -> dict[int, dict[str, Any]]:
        return {row["latent"]: row for row in cards.read_explanations(self.run.path) if row["explanation"] is not None}

    @cached_property
    def explanations(self) -> dict[int, str]:
        """Of the latents that have one."""
        return {latent: row["explanation"] for latent, row in self._explained.items()}

    @cached_property
    def terms(self) -> dict[int, Mapping[str, float]]:
        """Of every explanation by terms, the terms and what each says: the logarithm of its share over the corpus's."""
        return {latent: _weights(of_sentence(terms)) for latent, terms in self.term_lists.items()}

    @cached_property
    def term_lists(self) -> dict[int, list[Mapping[str, Any]]]:
        """The terms of every explanation by terms as `explanations.jsonl` has them."""
        return {latent: row["terms"] for latent, row in self._explained.items() if row.get("terms")}

    @cached_property
    def raised(self) -> dict[int, Mapping[str, float]]:
        """Of every live latent the tokens that its direction makes likelier, as terms of equal weight."""
        table = pq.read_table(self.run.folder("evaluation") / tables.LATENTS, columns=["latent", "raised"])
        named = zip(table["latent"].to_pylist(), table["raised"].to_pylist(), strict=True)
        return {latent: dict.fromkeys(_terms_of(pieces), 1.0) for latent, pieces in named}

    def others(self, latents: Sequence[int]) -> dict[int, str]:
        """For each latent the explanation of another one, drawn at random."""
        rng = np.random.default_rng((self.run.recipe.seed, len(latents)))
        explained = sorted(self.explanations)
        drawn = rng.permutation(explained).tolist()
        found = {}
        for latent, other, spare in zip(latents, drawn, drawn[1:] + drawn[:1], strict=False):
            found[latent] = self.explanations[other if other != latent else spare]
        return found

    def spread(self, count: int) -> list[int]:
        """`count` of the explained latents, evenly spread."""
        explained = sorted(self.explanations)
        return [explained[i] for i in evenly(len(explained), count)]

    def tests(self, latents: Sequence[int], *, places: bool = False) -> list[Reserved]:
        """The reserved sentences of these latents, and if asked for the tokens where they fire."""
        return held_out.read(self.examples, latents, places=places)

    def texts(self, tests: Sequence[Reserved]) -> dict[int, Text]:
        """The sentences of these test sets."""
        return held_out.texts(self.examples, (shown.sentence for test in tests for shown in test.shown))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return open_tokenizer(self.run.recipe.model)

    @cached_property
    def sentences(self) -> Sentences:
        return Sentences(self.run.folder("sentences"))

    @cached_property
    def codes(self) -> StoredCodes:
        return StoredCodes(encoding.open_stage(self.run))

    @cached_property
    def sample(self) -> Sample:
        """Sentences of the store with the SAE's codes."""
        most = self.run.recipe.corpus.max_tokens
        return read(self.codes, self.sentences, self.tokenizer, self.recipe.sentences, most)

    def texts_of(self, drawn: Sample) -> list[Text]:
        """The sentences of a sample, in order; which tokens the store holds is left open."""
        texts = self.sentences.take(drawn.sentence, columns=["text"])["text"].to_pylist()
        found = []
        for number, text in zip(drawn.sentence.tolist(), texts, strict=True):
            spans = (part[: self.run.recipe.corpus.max_tokens] for part in self.tokenizer.spans(text))
            ids, starts, ends = spans
            found.append(Text(number, text, starts, ends, ids, []))
        return found

    def reserved(self, sentence: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which sentences no explanation has seen."""
        return is_test(sentence, self.run.recipe.examples.test_fraction, self.run.recipe.seed)

    def best_examples(self, latents: Sequence[int], count: int) -> list[dict[str, Any]]:
        """Rows of `examples.parquet`: the best of each latent."""
        table = tables.read_sorted(self.examples / tables.EXAMPLES, "latent", latents)
        aggregations = self.run.recipe.examples.aggregations
        chosen = "max" if "max" in aggregations else aggregations[0]
        best = np.asarray(table["rank"].to_numpy() < count) & (table["aggregation"].to_numpy(False) == chosen)
        return table.filter(pa.array(best)).to_pylist()


def _weights(terms: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {
        term["text"]: max(LEAST_WEIGHT, log(max(term["share"], 1e-6) / max(term["corpus_share"], 1e-6)))
        for term in terms
    }


def _terms_of(pieces: Sequence[str]) -> list[str]:
    """Tokens as terms: one behind a space is a word or begins one, any other goes on with a word."""
    found = []
    for piece in pieces:
        core = piece.strip()
        if core.isalnum():
            found += [core, f"{core}-"] if piece.startswith(" ") else [f"-{core}", f"-{core}-"]
    return found
