"""Seeded tensors and comparisons that the tests of all kernels share."""

import torch
from torch import Tensor

from monosem.kernels import AdamSettings, Pattern

ADAM = AdamSettings(lr=1e-2, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1, step=3)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_pattern(rows: int, n: int, k: int, seed: int) -> Pattern:
    return Pattern.fixed(normal(seed, rows, n).topk(min(k, n), dim=1).indices, n)


def assert_close(fast: Tensor, twin: Tensor) -> None:
    scale = float(twin.abs().max()) if twin.numel() else 0.0
    torch.testing.assert_close(fast, twin, rtol=1e-5, atol=1e-5 * max(scale, 1e-3))


def assert_distinct(chosen: Tensor, n: int) -> None:
    """Every row of `chosen [B, k]` has k different latents."""
    assert all(len(set(row)) == chosen.shape[1] for row in chosen.tolist())
    assert bool(((chosen >= 0) & (chosen < n)).all())
