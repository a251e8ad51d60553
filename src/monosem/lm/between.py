"""What stands between the products of a Llama: normalisation and the gate, as PyTorch's operators or compiled.

Each is a few passes over memory; a compiler makes one of them (`torch.compile`, for any number of tokens). On a CPU
with two cores that is 3 % of a layer; where products are fast it is more.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from monosem.errors import ModelError


class Between(NamedTuple):
    """The two functions."""

    norm: Callable[[Tensor, Tensor, float], Tensor]
    gate: Callable[[Tensor], Tensor]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square normalisation (arXiv 1910.07467) of `x [T, d]`; the mean square in fp32."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * scale).to(x.dtype).mul_(weight)


def swiglu(gate_up: Tensor) -> Tensor:
    """SwiGLU (arXiv 2002.05202) of `[T, 2 f]`, whose memory is used; returns `[T, f]`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate, inplace=True).mul_(up)


def _swiglu_apart(gate_up: Tensor) -> Tensor:
    """`swiglu` in memory of its own: compiled, it need not write what nobody reads."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


EAGER = Between(rms_norm, swiglu)


def compiled() -> Between:
    """The same functions, compiled when they are first called.

    Raises:
        ModelError: this PyTorch cannot compile, or there is no compiler.
    """
    found = Between(torch.compile(rms_norm, dynamic=True), torch.compile(_swiglu_apart, dynamic=True))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found.gate(torch.zeros(3, 4, device=device))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"model.compile: torch.compile does not work here ({reason}); install a C++ compiler, or set it to false"
        ) from error
    return found
