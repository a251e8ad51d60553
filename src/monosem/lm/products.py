"""Products with a model's weights, which a CPU keeps once more in the layout of its matrix unit, where there is room.

oneDNN's packed products read a weight faster than the plain ones where few rows meet it, as in generation, and are no
slower where many do. In bfloat16 the results are the same bits. Nothing else in the house needs to know.
"""

import os
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PACKED = (torch.float32, torch.bfloat16)
ROWS = 64
"""Rows that the layout is made for; the same one is as good for 1 and for 2,048."""
SHARE = 0.25
"""Of the free memory, that copies may take."""


class _Packed(NamedTuple):
    weight: Tensor
    """As packed; opaque."""
    version: int
    """Of the weight that it was made of: one that is changed in place is packed again."""
    address: int


class Products:
    """`x @ weight.T` for weights that stay the same."""

    def __init__(self) -> None:
        self._packed: dict[int, _Packed] = {}
        self._room: int | None = None

    def __deepcopy__(self, memo: dict) -> "Products":
        return Products()  # packed weights cannot be copied, and are soon made again

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """`[T, out]` for `x [T, in]` and `weight [out, in]`."""
        packed = self._of(weight) if x.shape[0] and x.is_cpu else None
        if packed is None:
            return F.linear(x, weight)
        return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")

    def _of(self, weight: Tensor) -> Tensor | None:
        """The packed copy, made now if it has to be; None where there is none to be had."""
        found = self._packed.get(id(weight))
        if found is not None and (found.version, found.address) == (weight._version, weight.data_ptr()):
            return found.weight
        if weight.dtype not in PACKED or weight.requires_grad or not _can_pack():
            return None
        if self._room is None:
            self._room = int(SHARE * _free_memory())
        needed = weight.numel() * weight.dtype.itemsize
        if found is None and needed > self._room:
            return None
        self._room -= needed if found is None else 0
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
        self._packed[id(weight)] = _Packed(packed, weight._version, weight.data_ptr())
        return packed


def _can_pack() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _free_memory() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
