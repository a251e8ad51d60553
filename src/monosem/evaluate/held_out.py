"""Which sentences an SAE is measured on: held out of its training, spread evenly over all that are."""

import numpy as np
from numpy.typing import NDArray

from monosem.corpus import sentences, tokens
from monosem.lm.tokenizer import Tokenizer
from monosem.run import Run
from monosem.store import split


def numbers(run: Run) -> NDArray[np.int64]:
    """Numbers of the sentences that are read: as many as the recipe says."""
    every = np.arange(len(sentences.Sentences(run.folder("sentences"))))
    apart = every[split.is_validation(every, run.recipe.prepare.validation_fraction, run.recipe.seed)]
    count = min(run.recipe.evaluate.sentences, len(apart))
    return apart[np.arange(count) * len(apart) // max(count, 1)]


def token_ids(run: Run, tokenizer: Tokenizer) -> list[list[int]]:
    """Their tokens."""
    chosen = sentences.Sentences(run.folder("sentences")).take(numbers(run), ["text"])
    return tokens.encode(tokenizer, chosen["text"].to_pylist(), run.recipe.corpus.max_tokens)
