"""What one AdamW update of a parameter needs: its two moments and the settings of the step."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class AdamSettings:
    """AdamW (Loshchilov and Hutter, 2019, algorithm 2) at one step."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    step: int
    """Counts from 1; corrects the moments' bias."""


class Moments(NamedTuple):
    """Running averages of a parameter's gradient and of its square, in the parameter's shape."""

    first: Tensor
    second: Tensor

    @classmethod
    def zeros_like(cls, parameter: Tensor) -> "Moments":
        return cls(torch.zeros_like(parameter), torch.zeros_like(parameter))

    def rows(self, first: int, last: int) -> "Moments":
        """Views of some rows."""
        return Moments(self.first[first:last], self.second[first:last])
