"""Packed products give what plain ones give, follow changed weights, and make way where there is no room."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from monosem.lm import products
from monosem.lm.products import Products


def pair(dtype: torch.dtype, rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 33, generator=generator).to(dtype), torch.randn(50, 33, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [0, 1, 4, 200])
def test_the_product_is_the_product(dtype: torch.dtype, rows: int) -> None:
    x, weight = pair(dtype, rows)
    product = Products()
    for _ in range(2):
        found = product(x, weight)
        assert (found.dtype, found.shape) == (dtype, (rows, 50))
        torch.testing.assert_close(found, F.linear(x, weight), rtol=1e-5, atol=1e-4)


def test_a_weight_that_is_changed_is_packed_again() -> None:
    x, weight = pair(torch.float32, 4)
    product = Products()
    product(x, weight)
    weight.mul_(2)
    torch.testing.assert_close(product(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-4)
    weight.data = pair(torch.float32, 4, seed=1)[1]
    torch.testing.assert_close(product(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-4)


def test_copies_take_a_part_of_the_free_memory_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = pair(torch.float32, 4)
    monkeypatch.setattr(products, "_free_memory", lambda: int(1.5 * weight.numel() * 4 / products.SHARE))
    product = Products()
    other = weight.clone()
    for each in (weight, other):
        torch.testing.assert_close(product(x, each), F.linear(x, each), rtol=1e-5, atol=1e-4)
    assert len(product._packed) <= 1


def test_a_model_with_packed_weights_can_be_copied() -> None:
    x, weight = pair(torch.float32, 4)
    product = Products()
    product(x, weight)
    torch.testing.assert_close(copy.deepcopy(product)(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-4)
