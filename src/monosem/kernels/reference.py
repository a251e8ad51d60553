"""The kernels as plainly as they can be said: what each computes, without any of the ways to make it fast.

Slow and hungry for memory (dense [B, n] inside); every fast kernel is compared with its twin here.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from monosem.kernels.adam import AdamSettings, Moments
from monosem.kernels.codes import Backward, ByLatent, DenseRows, Pattern, Workspace, sums_at


def select_topk(
    z: Tensor,
    w_enc: Tensor,
    b_enc: Tensor,
    k: int,
    workspace: Workspace,  # noqa: ARG001 - what the fast ones need
    *,
    exact: bool,  # noqa: ARG001
    absolute: bool = False,
) -> Tensor:
    """Latents of the k largest `z @ w_enc.T + b_enc` of every row of `z [B, d]`; with `absolute`, by magnitude.

    Returns [B, k] int64, in no order that a caller may rely on. Equal values go to the lowest index here; a fast
    kernel may take any of the equals. `exact=False` lets it compare products of bfloat16 inputs; the twin is exact.
    """
    pre = torch.addmm(b_enc, z, w_enc.T)
    pre = pre.abs() if absolute else pre
    return pre.sort(dim=1, descending=True, stable=True).indices[:, :k]


def select_above(
    z: Tensor,
    w_enc: Tensor,
    bias: Tensor,
    workspace: Workspace,  # noqa: ARG001
    *,
    exact: bool,  # noqa: ARG001
) -> Pattern:
    """Every latent with `z @ w_enc.T + bias > 0`, for every row of `z [B, d]`: latents ascend within a row.

    A threshold is a smaller bias. `exact` as in `select_topk`.
    """
    above = torch.addmm(bias, z, w_enc.T) > 0
    offsets = torch.cat([above.new_zeros(1, dtype=torch.int64), above.sum(1).cumsum(0)])
    return Pattern(above.nonzero()[:, 1], offsets, len(w_enc))


def values_at(rows: Tensor, weight: Tensor, pattern: Pattern, bias: Tensor | None = None) -> Tensor:
    """[nnz] float32: `<rows[b], weight[i]>` (+ `bias[i]`) at every entry (b, i) of the pattern."""
    products = rows @ weight.T
    if bias is not None:
        products = products + bias
    return products[pattern.row_of_entry(), pattern.indices]


def decode(values: Tensor, pattern: Pattern, weight: Tensor) -> Tensor:
    """[B, d]: for every vector the sum of its latents' rows of `weight [n, d]`, times `values [nnz]`."""
    dense = values.new_zeros(pattern.rows, pattern.n)
    dense[pattern.row_of_entry(), pattern.indices] = values
    return dense @ weight


def by_latent(pattern: Pattern) -> ByLatent:
    """The pattern turned round: one stable sort by latent."""
    order = torch.argsort(pattern.indices, stable=True)
    counts = torch.bincount(pattern.indices, minlength=pattern.n)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return ByLatent(pattern.row_of_entry()[order].int(), offsets.int(), order)


def sum_by_latent(values: Tensor, pattern: Pattern, by_latent: ByLatent) -> Tensor:  # noqa: ARG001
    """[n]: for every latent the sum of its `values [nnz]`."""
    return sums_at(pattern.indices, values, pattern.n)


def code_gradients(
    values: Tensor,  # noqa: ARG001
    pattern: Pattern,
    by_latent: ByLatent,  # noqa: ARG001
    d_output: Tensor,
    weight: Tensor,
    workspace: Workspace,  # noqa: ARG001
) -> Backward:
    """Gradients of the `values [nnz]` that `decode` made a reconstruction of, from that of the reconstruction.

    A kernel that reads each latent's vectors for it may hand over `latent_gradient(values, by_latent, d_output)` too.
    """
    return Backward(values_at(d_output, weight, pattern), None)


def latent_gradient(values: Tensor, by_latent: ByLatent, rows: Tensor, extra: DenseRows | None, out: Tensor) -> Tensor:
    """`out [n, d]`: for every latent the sum of `values` times the vectors `rows [B, d]` that use it, plus `extra`.

    `values [nnz]` stand in the pattern's order, not the latent's.
    """
    latents = torch.repeat_interleave(torch.arange(len(out), device=out.device), by_latent.offsets.diff())
    out.zero_().index_add_(0, latents, values[by_latent.order, None] * rows[by_latent.rows.long()])
    if extra is not None:
        out[extra.latents] += extra.rows
    return out


def project_rows(gradient: Tensor, weight: Tensor) -> None:
    """Take from every row of `gradient`, in place, its part along the same (unit) row of `weight`."""
    gradient -= (gradient * weight).sum(1, keepdim=True) * weight


def update_rows(
    weight: Tensor,
    gradient: Tensor,
    moments: Moments,
    adam: AdamSettings,
    *,
    project: bool = False,
    unit_norm: bool = False,
) -> None:
    """One AdamW step of `weight` in place, its gradient projected before and its rows made unit vectors after."""
    if project:
        project_rows(gradient, weight)
    moments.first.lerp_(gradient, 1 - adam.beta1)
    moments.second.mul_(adam.beta2).addcmul_(gradient, gradient, value=1 - adam.beta2)
    mean = moments.first / (1 - adam.beta1**adam.step)
    spread = (moments.second / (1 - adam.beta2**adam.step)).sqrt() + adam.eps
    weight.mul_(1 - adam.lr * adam.weight_decay).sub_(adam.lr * mean / spread)
    if unit_norm:
        weight /= weight.norm(dim=1, keepdim=True)


def update_from_codes(
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
) -> None:
    """`latent_gradient` and `update_rows` in one; a fast kernel never holds the whole gradient."""
    gradient = latent_gradient(values, by_latent, rows, extra, torch.empty_like(weight))
    update_rows(weight, gradient, moments, adam, project=project, unit_norm=unit_norm)


def keep_largest(codes: Tensor, k: int, *, signed: bool) -> Tensor:
    """Set all of `codes [B, m]`, in place, to zero but the k largest of every row, and those too if they are below.

    With `signed` the k largest magnitudes stay, whatever their sign.
    """
    kept = torch.topk(codes.abs() if signed else codes, k, dim=1, sorted=False).indices
    values = codes.gather(1, kept)
    return codes.zero_().scatter_(1, kept, values if signed else values.relu_())


def dense_products(*, exact: bool) -> AbstractContextManager[object]:  # noqa: ARG001
    """In this context dense float32 products may be rounded as the device likes best, unless `exact`."""
    return nullcontext()
