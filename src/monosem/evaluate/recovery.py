"""How much of a known dictionary a learner found: matched cosines (MCC), detection (F1), by frequency of the features.

Flow: `match` pairs latents with true features one to one; `measure` then compares, on fresh data, when a pair's latent
fires and when its feature is active. Anything with decoder rows and an encoder can be measured, peers' SAEs as well as
ours. A feature without a latent counts as zero everywhere. Reads no file; the data come from `synthetic`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from monosem.errors import SaeError
from monosem.evaluate.reconstruction import Rebuilt, Totals
from monosem.evaluate.synthetic import SyntheticBatch

RECOVERED = 0.9
"""A feature counts as recovered when its latent's cosine is above this (Sharkey et al., 2022)."""


class Dense(Protocol):
    """Codes that can be laid out."""

    def dense(self) -> Tensor:
        """[B, n] float32."""
        ...


@dataclass(frozen=True)
class Learned:
    """A trained dictionary, in the units of the data.

    Raises:
        SaeError: the shapes do not fit each other.
    """

    w_dec: Tensor
    """[n, d] float32; rows of any norm."""
    bias: Tensor
    """[d] float32: `x_hat = codes @ w_dec + bias`."""
    encode: Callable[[Tensor], Dense]
    """Codes of `x [B, d]`; 0 where a latent is not active."""
    signed: bool = False
    """Whether codes may be negative (AbsTopK): a row and its negative then say the same."""

    def __post_init__(self) -> None:
        if self.w_dec.dim() != 2 or self.bias.shape != self.w_dec.shape[1:]:
            raise SaeError(
                f"w_dec {list(self.w_dec.shape)} and bias {list(self.bias.shape)}: expected [n, d] and [d]; "
                "transpose the decoder so that a latent is a row"
            )


class Matching(NamedTuple):
    """A latent for every feature, no latent twice."""

    latent: Tensor
    """[n_true] int64; -1: none was left, or the feature was not asked for."""
    cosine: Tensor
    """[n_true] float32, between the decoder row and the feature; negative only where codes are signed. 0: no latent."""


def match(learned: Learned, dictionary: Tensor, among: Tensor | None = None) -> Matching:
    """The one-to-one assignment of latents to features with the largest sum of cosines (of |cosines|, where signed).

    The Hungarian method on cosines: arXiv 2505.20254, section 3, following independent component analysis. Without
    `signed` a latent that points the other way is no match, because its code cannot be negative. Grows with the cube of
    the size: seconds at 4,096 features, about a minute at 16,384.

    Args:
        learned: n latents.
        dictionary: [n_true, d] unit rows.
        among: [n_true] bool, features that take part. None: all.

    Raises:
        SaeError: another width.
    """
    if learned.w_dec.shape[1] != dictionary.shape[1]:
        raise SaeError(f"decoder rows of width {learned.w_dec.shape[1]}, features of width {dictionary.shape[1]}")
    asked = torch.arange(len(dictionary)) if among is None else among.nonzero().squeeze(1)
    # a row of zeros, or of a run that diverged, points nowhere
    rows = torch.nn.functional.normalize(learned.w_dec.float(), dim=1).nan_to_num(0.0)
    cosine = dictionary[asked].float() @ rows.T
    score = cosine.abs() if learned.signed else cosine.clamp_min(0)
    features, latents = (torch.from_numpy(part) for part in linear_sum_assignment(score.numpy(), maximize=True))
    kept = score[features, latents] > 0
    features, latents = features[kept], latents[kept]
    latent = torch.full((len(dictionary),), -1)
    latent[asked[features]] = latents
    matched = torch.zeros(len(dictionary))
    matched[asked[features]] = cosine[features, latents]
    return Matching(latent, matched)


class Band(NamedTuple):
    """Means over the features of one range of frequencies."""

    low: float
    high: float
    """Smallest and largest frequency in it."""
    features: int
    mcc: float
    f1: float
    recovered: float
    """Share of features with a cosine above `RECOVERED`."""


class Recovery(NamedTuple):
    """What was found, on `rows` fresh vectors. All between 0 and 1, except L0."""

    rows: int
    mcc: float
    """Mean over the features of the cosine with their matched latent. Random rows do not give 0: show a baseline."""
    mcc_weighted: float
    """The same, weighted by frequency."""
    mcc_seen: float
    """MCC of the features that fired in training, matched among themselves: no learner can know the others."""
    seen: int
    """Their number."""
    recovered: float
    """Share of all features with a cosine above `RECOVERED`."""
    f1: float
    """Mean over the features of 2 TP / (2 TP + FP + FN): the matched latent fires against the feature is active. A
    latent with a negative cosine fires when its code is negative. Features never active here are left out."""
    f1_weighted: float
    """The same, weighted by frequency."""
    fvu: float
    """sum |x - x_hat|^2 / sum |x - mean|^2."""
    l0: float
    """Mean number of active latents."""
    l0_true: float
    """Mean number of active features."""
    bands: list[Band]
    """Of equally many features each, the most frequent first."""


def measure(
    learned: Learned,
    dictionary: Tensor,
    frequency: Tensor,
    test: Iterable[SyntheticBatch],
    seen: Tensor | None = None,
    bands: int = 4,
) -> Recovery:
    """Compare a learned dictionary with the true one.

    Args:
        learned: what was learned.
        dictionary: [n_true, d] unit rows.
        frequency: [n_true], of the features: their weights and bands.
        test: fresh data of that dictionary; lays out [B, n + n_true] at a time.
        seen: [n_true] bool, features that fired in training. None: all.
        bands: ranges of frequency.

    Raises:
        SaeError: shapes that do not fit.
    """
    matching = match(learned, dictionary)
    among_seen = matching if seen is None else match(learned, dictionary, seen)
    seen = torch.ones(len(dictionary), dtype=torch.bool) if seen is None else seen
    counts = _Counts(learned, matching)
    for batch in test:
        counts.add(batch)
    figures = counts.totals.figures()
    cosine, weight = matching.cosine.abs().double(), frequency.double()
    active = counts.active > 0
    f1 = 2 * counts.both / (counts.fires + counts.active).clamp_min(1)
    order = torch.argsort(frequency, descending=True, stable=True)
    return Recovery(
        rows=figures.rows,
        mcc=_mean(cosine),
        mcc_weighted=_mean(cosine, weight),
        mcc_seen=_mean(among_seen.cosine[seen].abs().double()),
        seen=int(seen.sum()),
        recovered=_mean((cosine > RECOVERED).double()),
        f1=_mean(f1[active]),
        f1_weighted=_mean(f1[active], weight[active]),
        fvu=figures.fvu,
        l0=figures.l0,
        l0_true=float(counts.active.sum()) / figures.rows,
        bands=[
            Band(
                low=float(frequency[part].min()),
                high=float(frequency[part].max()),
                features=len(part),
                mcc=_mean(cosine[part]),
                f1=_mean(f1[part][active[part]]),
                recovered=_mean((cosine[part] > RECOVERED).double()),
            )
            for part in order.tensor_split(min(bands, len(order)))
        ],
    )


class _Counts:
    """Running counts over test data: [n_true] float64 each."""

    def __init__(self, learned: Learned, matching: Matching) -> None:
        self.learned, self.matching = learned, matching
        self.active = torch.zeros(len(matching.latent), dtype=torch.float64)
        self.fires, self.both = self.active.clone(), self.active.clone()
        self.totals = Totals()
        self._paired = (matching.latent >= 0).nonzero().squeeze(1)

    def add(self, batch: SyntheticBatch) -> None:
        codes = self.learned.encode(batch.x).dense()
        self.totals.add(batch.x, Rebuilt(codes @ self.learned.w_dec + self.learned.bias, (codes != 0).sum(1)))
        truth = batch.codes.dense() > 0
        self.active += truth.sum(0)
        pairs = self._paired
        fires = codes[:, self.matching.latent[pairs]] * self.matching.cosine[pairs].sign() > 0
        self.fires[pairs] += fires.sum(0)
        self.both[pairs] += (fires & truth[:, pairs]).sum(0)


def _mean(values: Tensor, weights: Tensor | None = None) -> float:
    """Weighted mean; 0 of nothing."""
    weights = torch.ones_like(values) if weights is None else weights
    total = float(weights.sum())
    return float((values * weights).sum()) / total if total > 0 else 0.0
