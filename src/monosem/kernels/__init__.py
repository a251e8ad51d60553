"""The arithmetic of a sparse autoencoder, in implementations of one signature each.

`choose` picks at call time: `cpu` and `triton` are fast, `reference` is the plain twin that every other one is tested
against. `MONOSEM_KERNELS` forces one by name. The kernels know tensors, not SAEs, runs or language models.
"""

import importlib
import importlib.util
import os
from contextlib import AbstractContextManager
from functools import cache
from typing import Protocol, cast

import torch
from torch import Tensor

from monosem.errors import RecipeError
from monosem.kernels import cpu, reference
from monosem.kernels.adam import AdamSettings, Moments
from monosem.kernels.codes import Backward, ByLatent, DenseRows, Pattern, Workspace, sums_at

__all__ = [
    "AdamSettings",
    "Backward",
    "ByLatent",
    "DenseRows",
    "Kernels",
    "Moments",
    "Pattern",
    "Workspace",
    "choose",
    "sums_at",
]

SWITCH = "MONOSEM_KERNELS"
INTERPRETER = "TRITON_INTERPRET"
WIDEST = 1 << 15
"""A row of more values fits into no Triton program's registers."""


class Kernels(Protocol):
    """What every implementation offers; the docstrings in `reference` define each function."""

    def select_topk(
        self,
        z: Tensor,
        w_enc: Tensor,
        b_enc: Tensor,
        k: int,
        workspace: Workspace,
        *,
        exact: bool,
        absolute: bool = False,
    ) -> Tensor: ...

    def select_above(self, z: Tensor, w_enc: Tensor, bias: Tensor, workspace: Workspace, *, exact: bool) -> Pattern: ...

    def values_at(self, rows: Tensor, weight: Tensor, pattern: Pattern, bias: Tensor | None = None) -> Tensor: ...

    def decode(self, values: Tensor, pattern: Pattern, weight: Tensor) -> Tensor: ...

    def by_latent(self, pattern: Pattern) -> ByLatent: ...

    def sum_by_latent(self, values: Tensor, pattern: Pattern, by_latent: ByLatent) -> Tensor: ...

    def code_gradients(
        self,
        values: Tensor,
        pattern: Pattern,
        by_latent: ByLatent,
        d_output: Tensor,
        weight: Tensor,
        workspace: Workspace,
    ) -> Backward: ...

    def latent_gradient(
        self, values: Tensor, by_latent: ByLatent, rows: Tensor, extra: DenseRows | None, out: Tensor
    ) -> Tensor: ...

    def project_rows(self, gradient: Tensor, weight: Tensor) -> None: ...

    def update_rows(
        self,
        weight: Tensor,
        gradient: Tensor,
        moments: Moments,
        adam: AdamSettings,
        *,
        project: bool = False,
        unit_norm: bool = False,
    ) -> None: ...

    def update_from_codes(
        self,
        weight: Tensor,
        values: Tensor,
        by_latent: ByLatent,
        rows: Tensor,
        extra: DenseRows | None,
        moments: Moments,
        adam: AdamSettings,
        *,
        project: bool = False,
        unit_norm: bool = False,
    ) -> None: ...

    def keep_largest(self, codes: Tensor, k: int, *, signed: bool) -> Tensor: ...

    def dense_products(self, *, exact: bool) -> AbstractContextManager[object]: ...


def choose(device: torch.device, dtype: torch.dtype = torch.float32, width: int = 1) -> Kernels:
    """The kernels for vectors of `width` values of `dtype` on `device`.

    Raises:
        RecipeError: the environment switch names no implementation, or one that cannot be had here.
    """
    forced = os.environ.get(SWITCH, "")
    if forced == "triton":
        return _forced_triton(device)
    if forced not in ("", "reference"):
        raise RecipeError(
            f"{SWITCH}={forced!r}: expected 'reference', 'triton' or nothing; unset it to let the device decide"
        )
    if device.type == "cpu" and not forced:
        return cpu
    if device.type == "cuda" and not forced and dtype == torch.float32 and width <= WIDEST:
        return _triton() or reference
    return reference


@cache
def _triton() -> Kernels | None:
    """The Triton kernels, loaded when they are first asked for; None, and a line that says so, without Triton."""
    if importlib.util.find_spec("triton") is None:
        from monosem import progress  # the kernels themselves need nothing but torch

        progress.note("Triton is not installed: training runs on its plain kernels, slowly; pip install triton")
        return None
    return cast(Kernels, importlib.import_module("monosem.kernels.triton"))


def _forced_triton(device: torch.device) -> Kernels:
    if device.type != "cuda" and os.environ.get(INTERPRETER) != "1":
        raise RecipeError(f"{SWITCH}='triton' on a {device.type} device: needs {INTERPRETER}=1, set before the start")
    kernels = _triton()
    if kernels is None:
        raise RecipeError(f"{SWITCH}='triton': Triton is not installed; pip install triton")
    return kernels
