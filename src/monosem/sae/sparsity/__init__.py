"""Which latents of a vector are active, and with which values: one small class for each way of the field.

A sparsity selects entries of the encoder's product (without ever holding all of it), turns pre-activations into code
values, and says where gradients pass. `SPARSITIES` names them; `protocol` says what they offer.
"""

from typing import Literal, get_args

from monosem.errors import SaeError
from monosem.sae.exchange import ALONE, Exchange
from monosem.sae.sparsity.protocol import CodeGradients, Encoder, Selection, Sparsity
from monosem.sae.sparsity.threshold import BatchTopK, JumpReLU, ReLU, exceeded
from monosem.sae.sparsity.topk import AbsTopK, TopK

__all__ = [
    "SPARSITIES",
    "CodeGradients",
    "Encoder",
    "Selection",
    "Sparsity",
    "SparsityName",
    "exceeded",
    "make_sparsity",
]

SparsityName = Literal["topk", "abstopk", "batchtopk", "jumprelu", "relu"]
SPARSITIES: tuple[SparsityName, ...] = get_args(SparsityName)


def make_sparsity(name: str, k: int, bandwidth: float = 1.0, exchange: Exchange = ALONE) -> Sparsity:
    """The sparsity that a configuration names.

    Args:
        k: active latents for each activation; of the whole batch on average for `batchtopk`. `jumprelu` and `relu` have
            no use for it.
        bandwidth: of `jumprelu`'s straight-through estimator, as a share of the threshold; at most 2.
        exchange: with the processes that hold the other latents, where there are any.

    Raises:
        SaeError: it names none that is known.
    """
    match name:
        case "topk":
            return TopK(k, exchange)
        case "abstopk":
            return AbsTopK(k, exchange)
        case "batchtopk":
            return BatchTopK(k, exchange)
        case "jumprelu":
            return JumpReLU(bandwidth)
        case "relu":
            return ReLU()
    raise SaeError(f"sparsity {name!r} is not known; expected one of {', '.join(SPARSITIES)}")
