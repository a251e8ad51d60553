"""N2G by running the model: the patterns of a few latents as Foote et al. make them (arXiv 2305.19911).

Flow: for each example the text up to the firing token is cut from the left, token by token, until the shortest suffix
that keeps half of the activation is found; each token of it is blanked in turn, and one whose saliency 1 - a' / a is
below a half becomes a wildcard. All texts of all latents at a step are one batch, and equal texts are run once. A
text's first token is of no use where the model makes it an attention sink. Left out: the augmentation by a masked
language model, which is not at hand.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from monosem import progress
from monosem.evaluate.replay import Replay, packs
from monosem.interpret.score.n2g import KEPT
from monosem.interpret.score.places import Pattern
from monosem.sae.autoencoder import Autoencoder
from monosem.steering import within

LONGEST = 16  # tokens of a suffix; an example that needs more has no pattern
SALIENT = 0.5

Ids = tuple[int, ...]


class Peak(NamedTuple):
    """An example up to the token where the latent fires most."""

    latent: int
    ids: Ids
    """Of the text, the firing token the last."""
    value: float
    """Of the latent there, with all of the text before it."""


class Ablated(NamedTuple):
    """What running the model gave."""

    patterns: dict[int, list[Pattern]]
    """Of each latent, each pattern once, most support first."""
    unexplained: dict[int, int]
    """Of each latent, its examples without a short suffix."""
    tokens: int
    """That the model read."""


class Prober:
    """A latent's value at the last token of any text.

    Args:
        batch_tokens: read at once.
    """

    def __init__(self, replay: Replay, sae: Autoencoder, batch_tokens: int) -> None:
        self._replay, self._sae, self._batch_tokens = replay, sae, batch_tokens
        self.tokens = 0
        """Read so far."""

    @torch.no_grad()
    def values(self, texts: Sequence[Ids], latents: Sequence[int]) -> list[float]:
        """One for each text and its latent; 0 at an activation that the SAE was not trained on (a sink)."""
        asked: dict[Ids, list[int]] = {}
        for number, text in enumerate(texts):
            asked.setdefault(text, []).append(number)
        found = [0.0] * len(texts)
        for pack in packs(sorted(asked, key=len), self._batch_tokens):
            packed = self._replay.pack(pack)
            x = self._replay.activations(packed)[packed.last].float().to(self._sae.W_enc.device)
            codes = self._sae.encode(x)
            usual = within(x, self._sae.config.norm_threshold).tolist()
            for row, text in enumerate(pack):
                for number in asked[tuple(text)] if usual[row] else ():
                    found[number] = float(codes.values[row][codes.indices[row] == latents[number]].sum())
            self.tokens += packed.n_tokens
        return found


def patterns(prober: Prober, peaks: Sequence[Peak], blank: int) -> Ablated:
    """The patterns of all latents that have peaks.

    Args:
        blank: the token that stands for a blanked one.
    """
    before = prober.tokens
    found: dict[int, dict[tuple[int | None, ...], list[float]]] = {peak.latent: {} for peak in peaks}
    suffixes = _suffixes(prober, peaks)
    salient = _salient(prober, [(peak.latent, suffix, value) for peak, suffix, value in suffixes], blank)
    for (peak, _, value), tokens in zip(suffixes, salient, strict=True):
        if tokens:
            found[peak.latent].setdefault(tokens, []).append(value)
    unexplained = {latent: sum(peak.latent == latent for peak in peaks) for latent in found}
    ordered: dict[int, list[Pattern]] = {}
    for latent, by_tokens in found.items():
        unexplained[latent] -= sum(map(len, by_tokens.values()))
        listed = [Pattern(tokens, sum(values) / len(values), len(values)) for tokens, values in by_tokens.items()]
        ordered[latent] = sorted(listed, key=lambda pattern: -pattern.support)
    return Ablated(ordered, unexplained, prober.tokens - before)


def _suffixes(prober: Prober, peaks: Sequence[Peak]) -> list[tuple[Peak, Ids, float]]:
    """Of each example that has one, the shortest suffix that keeps half of the activation, and what it keeps."""
    found: list[tuple[Peak, Ids, float]] = []
    waiting = list(peaks)
    with progress.progress("n2g, cut", LONGEST, "lengths") as advance:
        for length in range(1, LONGEST + 1):
            waiting = [peak for peak in waiting if len(peak.ids) >= length]
            values = prober.values([peak.ids[-length:] for peak in waiting], [peak.latent for peak in waiting])
            kept = [value >= KEPT * peak.value for peak, value in zip(waiting, values, strict=True)]
            tried = zip(waiting, values, kept, strict=True)
            found += [(peak, peak.ids[-length:], value) for peak, value, keeps in tried if keeps]
            waiting = [peak for peak, keeps in zip(waiting, kept, strict=True) if not keeps]
            advance(1)
    return found


def _salient(prober: Prober, suffixes: Sequence[tuple[int, Ids, float]], blank: int) -> list[tuple[int | None, ...]]:
    """Each suffix with None for what need not be there; wildcards in front of it are left out."""
    texts = [(*ids[:i], blank, *ids[i + 1 :]) for _, ids, _ in suffixes for i in range(len(ids))]
    left = iter(prober.values(texts, [latent for latent, ids, _ in suffixes for _ in ids]))
    found = []
    for _, ids, value in suffixes:
        tokens = [token if 1 - next(left) / value >= SALIENT else None for token in ids]
        first = next((i for i, token in enumerate(tokens) if token is not None), len(tokens))
        found.append(tuple(tokens[first:]))
    return found
