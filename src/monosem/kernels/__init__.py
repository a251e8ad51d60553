"""The arithmetic of a sparse autoencoder, in implementations of one signature each.

`choose(device)` picks at call time: `cpu` is fast, `reference` is the plain twin that every other one is tested
against. `MONOSEM_KERNELS=reference` forces the twin. The kernels know tensors, not SAEs, runs or language models.
"""

import os
from typing import Protocol

import torch
from torch import Tensor

from monosem.errors import RecipeError
from monosem.kernels import cpu, reference
from monosem.kernels.adam import AdamSettings, Moments
from monosem.kernels.codes import ByLatent, DenseRows, Pattern, Workspace

__all__ = ["AdamSettings", "ByLatent", "DenseRows", "Kernels", "Moments", "Pattern", "Workspace", "choose"]

SWITCH = "MONOSEM_KERNELS"


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


def choose(device: torch.device) -> Kernels:
    """The kernels for tensors on `device`.

    Raises:
        RecipeError: the environment switch names no implementation.
    """
    forced = os.environ.get(SWITCH, "")
    if forced not in ("", "reference"):
        raise RecipeError(f"{SWITCH}={forced!r}: expected 'reference' or nothing; unset it to let the device decide")
    return cpu if device.type == "cpu" and not forced else reference
