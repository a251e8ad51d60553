"""The parts of a training step with the least that each must compute and move, so that a time becomes a share of that.

Bytes count every input read once and every output written once; a gathered row counts each time, as if no cache held
it. The floor of a part is the larger of its operations over the device's best product and its bytes over its best copy.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from gpu_checks import Shape
from torch import Tensor

from monosem.kernels import AdamSettings, Kernels, Moments, Pattern, Workspace
from monosem.kernels.triton import plan

ADAM = AdamSettings(1e-5, 0.9, 0.999, 1e-8, 0.0, 10)


class Part(NamedTuple):
    """Something that is timed."""

    name: str
    run: Callable[[], object]
    operations: float = 0.0
    """Of the matrix units."""
    bytes: float = 0.0
    """Through memory."""


class Ceilings(NamedTuple):
    """What the device can do, measured on it."""

    operations: float
    """A second, of a large bfloat16 product."""
    bytes: float
    """A second, read and written, of a large copy."""

    def floor(self, part: Part) -> float:
        """Seconds that a part takes at least."""
        return max(part.operations / self.operations, part.bytes / self.bytes)


def parts(kernels: Kernels, shape: Shape, z: Tensor, w_enc: Tensor, w_dec: Tensor) -> list[Part]:
    """The parts of a TopK step on `z [B, d]` without dead latents, in order; moments are made here."""
    d, n, k, batch = shape
    workspace, bias = Workspace(), torch.zeros(n, device=z.device)
    chosen = kernels.select_topk(z, w_enc, bias, k, workspace, exact=False)
    pattern = Pattern.fixed(chosen, n)
    values = kernels.values_at(z, w_enc, pattern, bias)
    d_output = kernels.decode(values, pattern, w_dec).sub_(z).mul_(1e-6)
    turned = kernels.by_latent(pattern)
    moments = Moments.zeros_like(w_enc)
    d_values = kernels.code_gradients(values, pattern, turned, d_output, w_dec, workspace).values
    low, entries, row = w_dec.bfloat16(), batch * k, 4.0 * d
    kept = plan.keeps_gradient(entries, n)

    def decoder_update() -> None:
        if kept:
            gradient = workspace.get("backward.gradient", (n, d), torch.float32, z.device)
            kernels.update_rows(w_dec, gradient, moments, ADAM, project=True, unit_norm=True)
        else:
            kernels.update_from_codes(
                w_dec, values, turned, d_output, None, moments, ADAM, project=True, unit_norm=True
            )

    return [
        Part("select", lambda: kernels.select_topk(z, w_enc, bias, k, workspace, exact=False),
             2.0 * batch * n * d, 8.0 * n * d + 2.0 * batch * n),
        Part("values", lambda: kernels.values_at(z, w_enc, pattern, bias), bytes=(entries + batch) * row),
        Part("decode", lambda: kernels.decode(values, pattern, w_dec), bytes=(entries + batch) * row),
        Part("decode bf16 weights", lambda: kernels.decode(values, pattern, low), bytes=(entries / 2 + batch) * row),
        Part("by latent", lambda: kernels.by_latent(pattern), bytes=entries * 48.0),
        Part("code gradients", lambda: kernels.code_gradients(values, pattern, turned, d_output, w_dec, workspace),
             bytes=(entries + (2 * n if kept else batch)) * row),
        Part("bias gradient", lambda: kernels.sum_by_latent(values, pattern, turned), bytes=entries * 12.0),
        Part("decoder update", decoder_update, bytes=(7 * n if kept else 6 * n + entries) * row),
        Part("encoder update",
             lambda: kernels.update_from_codes(w_enc, d_values, turned, z, None, moments, ADAM),
             bytes=(6 * n + entries) * row),
    ]  # fmt: skip


def products(shape: Shape, z: Tensor, w_enc: Tensor) -> list[Part]:
    """The encoder's product by PyTorch, a chunk of rows at a time; the kernel's own product, cut in several ways."""
    from monosem.kernels.triton import product

    d, n, k, batch = shape
    cut = plan.selection(n, k)
    tile = cut.tile if cut is not None else plan.TILES[-1]
    rows = plan.chunk_rows(batch, n, 2)
    low_z = product.low_precision(z, torch.empty(batch, plan.even(d), dtype=torch.bfloat16, device=z.device))
    low_w = product.low_precision(w_enc, torch.empty(n, plan.even(d), dtype=torch.bfloat16, device=z.device))
    pre = torch.empty(rows, plan.even(n), dtype=torch.bfloat16, device=z.device)[:, :n]
    maxima = torch.empty(rows, -(-n // tile), dtype=torch.bfloat16, device=z.device)
    bias, operations, moved = torch.zeros(n, device=z.device), 2.0 * rows * n * d, 2.0 * (n * d + rows * d + rows * n)

    def by_torch() -> None:
        torch.mm(low_z[:rows], low_w.T, out=pre)

    def by_us(blocks: product.Blocks) -> None:
        product.product(low_z[:rows], low_w, bias, pre, maxima, tile, blocks=blocks)

    ways = [Part(f"torch, {rows} rows", by_torch, operations, moved)]
    for blocks in (product.BLOCKS, *product.OTHER_BLOCKS):
        name = f"{blocks.rows} x {blocks.columns} x {blocks.inner}, {blocks.stages} stages"
        ways.append(Part(name, lambda blocks=blocks: by_us(blocks), operations, moved))
    return ways
