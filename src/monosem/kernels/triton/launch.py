"""What every kernel and launch needs: `jit`, the tensor's own device, warps for a width, PyTorch's settings.

Knows no kernel. On the CPU Triton's interpreter stands in for the device, when `TRITON_INTERPRET=1`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

jit: Callable[[Callable[..., Any]], Any] = triton.jit
"""Makes a kernel. What a kernel may be called with, `num_warps` and plain numbers for `constexpr`, no type can say."""


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Make a tensor's device the one that kernels are launched on."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def warps(lanes: int) -> int:
    """Warps for `lanes` values held at a time: about 16 a thread."""
    return max(1, min(16, lanes // 512))


@contextmanager
def dense_products(*, exact: bool) -> Iterator[None]:
    """See `reference.dense_products`: TF32, 10 bits at eight times the speed, by PyTorch's own setting."""
    matmul = torch.backends.cuda.matmul
    name, fast = ("fp32_precision", "tf32") if hasattr(matmul, "fp32_precision") else ("allow_tf32", True)
    before = getattr(matmul, name)
    if not exact:
        setattr(matmul, name, fast)
    try:
        yield
    finally:
        setattr(matmul, name, before)
