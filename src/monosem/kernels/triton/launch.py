"""What every launch needs: the tensor's own device made current, the number of warps for a width, PyTorch's settings.

Knows no kernel. On the CPU Triton's interpreter stands in for the device, when `TRITON_INTERPRET=1`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor


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
