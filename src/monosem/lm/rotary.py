"""Rotary positions (RoPE, arXiv 2104.09864) in Hugging Face's layout: a pair has one member in each half of a head."""

import torch
from torch import Tensor

from monosem.lm.config import ModelConfig


class Rotation:
    """The cosines and sines of one pass's positions, shared by all its layers."""

    def __init__(self, config: ModelConfig, position: Tensor, dtype: torch.dtype):
        """`position [T]` int64."""
        steps = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=position.device)
        frequencies = 1.0 / (config.rope_theta ** (steps / config.head_dim))
        if config.rope_scaling is not None:
            frequencies = config.rope_scaling.stretch(frequencies)
        angle = position.float()[:, None, None] * frequencies
        cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
        self._cos, self._sin = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)

    def turn_(self, heads: Tensor) -> Tensor:
        """Turn `heads [T, any, head_dim]` in place."""
        partners = heads.roll(heads.shape[-1] // 2, -1)
        return heads.mul_(self._cos).addcmul_(partners, self._sin)

    def turned(self, heads: Tensor) -> Tensor:
        """`turn_` into a new tensor, for passes that keep gradients."""
        return heads * self._cos + heads.roll(heads.shape[-1] // 2, -1) * self._sin
