"""What replacing activations does to the language model's predictions: cross-entropy and KL, in nats a token.

Flow: the model runs once to the hook point; each variant then goes on from its own activations there, and all are
compared in small pieces, because their logits are wide. Every predicted token counts. Two scopes come of one pass:
vectors of the kind that capture drops (attention sinks) pass unedited by default, and `all_tokens` replaces every
vector. The SAE is one method among others here.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor

from monosem import progress
from monosem.errors import StoreError
from monosem.evaluate.reconstruction import Figures, Reconstruct, Totals
from monosem.evaluate.replay import HEAD_ROWS, Replay, packs
from monosem.lm.packed import Packed
from monosem.sae.autoencoder import SaeConfig
from monosem.steering import within
from monosem.store.pairs import Sample

SMALLEST_LOG_P = -80.0  # below, probabilities would be subnormal numbers, with which a CPU is 20 times slower


class Dropped(NamedTuple):
    """Which vectors capture left out of the store."""

    norm_threshold: float | None
    """Those with a larger norm."""
    first: bool
    """The first token of every sentence."""
    source_norm_threshold: float | None = None
    """Those that a transcoder would make of a vector with a larger norm."""

    @classmethod
    def of(cls, config: SaeConfig, first: bool) -> "Dropped":
        """What is left alone when this SAE's reconstructions take the place of activations."""
        source = config.norm_threshold if config.transcodes else None
        return cls(config.output.norm_threshold, first, source)

    def kept(self, sample: Sample, packed: Packed) -> Tensor:
        """`[T]` bool: the vectors that the store would hold."""
        kept = within(sample.target, self.norm_threshold)
        if self.source_norm_threshold is not None:
            kept &= within(sample.x, self.source_norm_threshold)
        return kept & (packed.position > 0) if self.first else kept


class Losses(NamedTuple):
    """A variant's mean loss over the predicted tokens."""

    ce: float
    """Cross-entropy of the next token."""
    kl: float
    """KL(clean || variant) of the next token's distribution."""


class Downstream(NamedTuple):
    """All that one pass over the sentences gave."""

    ce_clean: float
    """Cross-entropy of the unedited model."""
    default: dict[str, Losses]
    """By method, dropped vectors unedited."""
    all_tokens: dict[str, Losses]
    """By method, every vector replaced."""
    figures: dict[str, Figures]
    """Reconstruction over every vector, for the methods of `all_tokens`."""
    sentences: int
    tokens: int
    predictions: int
    edited: int
    """Vectors that were replaced in the default scope."""


def measure(
    replay: Replay,
    sentences: Sequence[Sequence[int]],
    methods: Mapping[str, Reconstruct],
    everywhere: Sequence[str],
    dropped: Dropped,
    batch_tokens: int,
) -> Downstream:
    """Run every method through the language model.

    Args:
        sentences: token ids; each predicts all its tokens but the first.
        methods: what stands in for the activations; they see them in float32.
        everywhere: the methods that are measured in the scope `all_tokens` as well.

    Raises:
        StoreError: no sentence has a token to predict.
    """
    sentences = [sentence for sentence in sentences if len(sentence) > 1]
    if not sentences:
        raise StoreError("no held-out sentence of two tokens or more to evaluate; capture more sentences")
    variants = [Variant(name, False) for name in methods] + [Variant(name, True) for name in everywhere]
    sums = {variant: _Sums() for variant in variants}
    totals = {name: Totals() for name in everywhere}
    clean, edited = 0.0, 0
    n_tokens = sum(map(len, sentences))
    with progress.progress("downstream", n_tokens, "tokens") as advance:
        for pack in packs(sentences, batch_tokens):
            packed = replay.pack(pack)
            sample = replay.sample(packed)
            kept, x = dropped.kept(sample, packed), sample.target
            exact = Sample(sample.x.float(), x.float())
            rebuilt = {name: method(exact) for name, method in methods.items()}
            for name, total in totals.items():
                total.add(x, rebuilt[name])
            inputs = {
                variant: x_hat if variant.all_tokens else torch.where(kept[:, None], x_hat, x)
                for variant in variants
                for x_hat in [rebuilt[variant.method].x_hat.to(x)]
            }
            clean += _compare(replay, packed, x, inputs, sums)
            edited += int(kept.sum())
            advance(packed.n_tokens)
    predictions = n_tokens - len(sentences)
    losses = {variant: total.mean(predictions) for variant, total in sums.items()}
    return Downstream(
        ce_clean=clean / predictions,
        default={variant.method: loss for variant, loss in losses.items() if not variant.all_tokens},
        all_tokens={variant.method: loss for variant, loss in losses.items() if variant.all_tokens},
        figures={name: total.figures() for name, total in totals.items()},
        sentences=len(sentences),
        tokens=n_tokens,
        predictions=predictions,
        edited=edited,
    )


def recovered(loss: float, ablated: float, clean: float) -> float:
    """(ablated - loss) / (ablated - clean): exactly 1 for the clean loss, exactly 0 for the ablated one.

    Exact by construction: equal activations take the same path to the same bits, and a / a is 1 in floating point.
    """
    return (ablated - loss) / (ablated - clean) if ablated != clean else float("nan")


class Variant(NamedTuple):
    """A way to run the model."""

    method: str
    all_tokens: bool
    """Whether dropped vectors are replaced as well."""


class _Sums:
    """Summed losses of one variant."""

    def __init__(self) -> None:
        self.ce = self.kl = 0.0

    def mean(self, predictions: int) -> Losses:
        return Losses(self.ce / predictions, self.kl / predictions)


def _compare(
    replay: Replay, packed: Packed, x: Tensor, inputs: Mapping[Variant, Tensor], sums: Mapping[Variant, _Sums]
) -> float:
    """Add the losses of every variant's `inputs [T, d]` to its sums; returns the clean model's summed cross-entropy."""
    rows = (packed.position[1:] > 0).nonzero().squeeze(1)  # the row before a token that is not its sentence's first
    clean = 0.0
    of_clean = _pieces(replay, packed, x, rows)
    of_variants = zip(*(_pieces(replay, packed, chosen, rows) for chosen in inputs.values()), strict=False)
    for ids, logits, variants in zip(packed.ids[rows + 1].split(HEAD_ROWS), of_clean, of_variants, strict=False):
        log_p = logits.log_softmax(1)
        p = log_p.clamp_min(SMALLEST_LOG_P).exp()
        entropy = torch.linalg.vecdot(p, log_p)
        clean -= _sum(log_p.gather(1, ids[:, None]))
        for variant, changed in zip(inputs, variants, strict=True):
            log_q = changed.log_softmax(1).expand_as(p)
            sums[variant].ce -= _sum(log_q.gather(1, ids[:, None]))
            sums[variant].kl += _sum(entropy - torch.linalg.vecdot(p, log_q))
    return clean


def _pieces(replay: Replay, packed: Packed, x: Tensor, rows: Tensor) -> Iterator[Tensor]:
    """Logits `[<= HEAD_ROWS, vocab]` at the rows, piece by piece, where `x [T, d]` stands at the hook point.

    One vector everywhere needs one token, and gives one row again and again: positions enter through the weights of
    attention alone, and any average of equal values is that value.
    """
    if replay.resumes and bool((x == x[0]).all()):
        return repeat(next(replay.head(replay.final(replay.pack([[0]]), x[:1]))))
    return replay.head(replay.final(packed, x)[rows])


def _sum(values: Tensor) -> float:
    return values.sum(dtype=torch.float64).item()
