"""The kernels for CPUs: everything after the selection is sparse, and nothing is allocated that could be reused.

Selection multiplies row chunks in bfloat16 where the CPU has instructions for it (in float32 elsewhere) into one
buffer and reads each row once, through maxima of tiles; the values of the winners are then exact in float32.
Gradients and their AdamW step walk over the latents in blocks that stay in the cache. Sums run in a fixed order, so
the same input gives the same bits.
"""

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.adamw import adamw

from monosem.kernels.adam import AdamSettings, Moments
from monosem.kernels.codes import ByLatent, DenseRows, Pattern, Workspace

CHUNK_VALUES = 1 << 23
"""Pre-activations computed at a time: 16 MiB in bfloat16, inside a last-level cache."""
TILE = 8
"""Values behind each maximum of the selection."""
PARTITION_WIDTH = 512
PARTITION_THREADS = 4
"""Up to these, numpy's vectorised partition on one thread beats torch's threaded `topk`."""
BLOCK_VALUES = 1 << 19
"""Gradient values computed and applied at a time: 2 MiB."""


@cache
def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # newer than our oldest torch
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "sve_bf16", "arm_bf16"))


def select_topk(z: Tensor, w_enc: Tensor, b_enc: Tensor, k: int, workspace: Workspace, *, exact: bool) -> Tensor:
    """See `reference.select_topk`; exact up to ties."""
    rows, n = len(z), len(w_enc)
    dtype = torch.float32 if exact or not has_fast_bf16() else torch.bfloat16
    z = _with_bias(z, torch.ones((), device=z.device), dtype, workspace, "select.z")
    weight = _with_bias(w_enc, b_enc, dtype, workspace, "select.weight").T
    chunk = max(32, CHUNK_VALUES // n)
    pre = workspace.get("select.pre", (min(chunk, rows), n), dtype, z.device)
    chosen = torch.empty(rows, k, dtype=torch.int64, device=z.device)
    for first in range(0, rows, chunk):
        part = z[first : first + chunk]
        scores = torch.mm(part, weight, out=pre[: len(part)])
        chosen[first : first + chunk] = _largest(scores, k)
    return chosen


def _with_bias(matrix: Tensor, bias: Tensor, dtype: torch.dtype, workspace: Workspace, name: str) -> Tensor:
    """`[matrix, bias]` in `dtype`: the bias rides in the product, which a separate pass over [B, n] would not.

    The width is made even, because bfloat16 products take pairs.
    """
    rows, d = matrix.shape
    extended = workspace.get(name, (rows, d + 1 + (d + 1) % 2), dtype, matrix.device)
    extended[:, :d] = matrix
    extended[:, d] = bias
    extended[:, d + 1 :] = 0
    return extended


def _largest(scores: Tensor, k: int) -> Tensor:
    """Columns of the k largest of every row, in any order.

    The k tiles with the largest maxima contain the k largest values (up to ties), and the same holds for the
    maxima themselves, so that `topk` never sees more than a few multiples of k values.
    """
    columns = scores.shape[1]
    tiles = columns // TILE
    if tiles < 2 * k:
        return _top_positions(scores, k)
    # a tile is every `tiles`-th column, so that its maximum is taken over whole vectors
    maxima = torch.amax(scores[:, : tiles * TILE].unflatten(1, (TILE, tiles)), dim=1)
    inside = torch.arange(0, tiles * TILE, tiles, device=scores.device)
    survivors = (_largest(maxima, k).unsqueeze(1) + inside[:, None]).flatten(1)
    if columns > tiles * TILE:
        rest = torch.arange(tiles * TILE, columns, device=scores.device)
        survivors = torch.cat([survivors, rest.expand(len(scores), -1)], dim=1)
    return survivors.gather(1, _top_positions(scores.gather(1, survivors), k))


def _top_positions(scores: Tensor, k: int) -> Tensor:
    """Columns of the k largest of every row of a few columns, in any order."""
    width = scores.shape[1]
    if width > PARTITION_WIDTH or torch.get_num_threads() > PARTITION_THREADS:
        return torch.topk(scores, k, dim=1, sorted=False).indices
    # integers that order as (value, lowest column): the float's bits, turned round below zero, above the column
    half = 16 if scores.dtype == torch.bfloat16 else 32
    bits = scores.view(torch.int16 if half == 16 else torch.int32).to(torch.int32 if half == 16 else torch.int64)
    keys = (bits >> half).bitwise_and_((1 << (half - 1)) - 1).bitwise_xor_(bits).bitwise_left_shift_(half)
    keys += torch.arange(width - 1, -1, -1, dtype=keys.dtype)
    keys.numpy().partition(width - k, axis=1)
    return width - 1 - (keys[:, width - k :] & ((1 << half) - 1)).long()


def values_at(rows: Tensor, weight: Tensor, pattern: Pattern, bias: Tensor | None = None) -> Tensor:
    """See `reference.values_at`."""
    start = torch.zeros(len(pattern.indices)) if bias is None else bias[pattern.indices]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        sampled = torch.sparse_csr_tensor(
            pattern.offsets, pattern.indices, start, size=(pattern.rows, pattern.n), check_invariants=False
        )
    return torch.sparse.sampled_addmm(sampled, rows, weight.T, beta=0.0 if bias is None else 1.0).values()


def decode(values: Tensor, pattern: Pattern, weight: Tensor) -> Tensor:
    """See `reference.decode`."""
    return F.embedding_bag(
        pattern.indices, weight, pattern.offsets, per_sample_weights=values, mode="sum", include_last_offset=True
    )


def by_latent(pattern: Pattern) -> ByLatent:
    """See `reference.by_latent`."""
    order = torch.sort(pattern.indices, stable=True).indices
    offsets = torch.zeros(pattern.n + 1, dtype=torch.int32)
    offsets[1:] = torch.bincount(pattern.indices, minlength=pattern.n).cumsum(0)
    return ByLatent(pattern.row_of_entry()[order].int(), offsets, order)


def latent_gradient(values: Tensor, by_latent: ByLatent, rows: Tensor, extra: DenseRows | None, out: Tensor) -> Tensor:
    """See `reference.latent_gradient`."""

    def keep(first: int, last: int, block: Tensor) -> None:
        out[first:last] = block

    _for_gradient_blocks(values, by_latent, rows, extra, keep)
    return out


def project_rows(gradient: Tensor, weight: Tensor) -> None:
    """See `reference.project_rows`."""
    block = _block_rows(weight)
    for first in range(0, len(weight), block):
        _project(gradient[first : first + block], weight[first : first + block])


def update_rows(
    weight: Tensor,
    gradient: Tensor,
    moments: Moments,
    adam: AdamSettings,
    *,
    project: bool = False,
    unit_norm: bool = False,
) -> None:
    """See `reference.update_rows`."""
    block = _block_rows(weight)
    for first in range(0, len(weight), block):
        last = first + block
        _update(weight[first:last], gradient[first:last], moments.rows(first, last), adam, project, unit_norm)


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
    """See `reference.update_from_codes`; a block's gradient is used while it is in the cache, then forgotten."""

    def apply(first: int, last: int, block: Tensor) -> None:
        _update(weight[first:last], block, moments.rows(first, last), adam, project, unit_norm)

    _for_gradient_blocks(values, by_latent, rows, extra, apply)


def _block_rows(weight: Tensor) -> int:
    return max(1, BLOCK_VALUES // (weight.numel() // len(weight)))


def _for_gradient_blocks(
    values: Tensor,
    by_latent: ByLatent,
    rows: Tensor,
    extra: DenseRows | None,
    use: Callable[[int, int, Tensor], None],
) -> None:
    """Call `use(first, last, gradient of latents first to last)` for block after block of latents."""
    n, block = len(by_latent.offsets) - 1, _block_rows(rows)
    values = values[by_latent.order]
    bounds = torch.cat([torch.arange(0, n, block), torch.tensor([n])])
    entries = by_latent.offsets[bounds].tolist()
    extras = torch.searchsorted(extra.latents, bounds).tolist() if extra is not None else []
    for i, first in enumerate(range(0, n, block)):
        last = min(first + block, n)
        uses = slice(entries[i], entries[i + 1])
        gradient = F.embedding_bag(
            by_latent.rows[uses],
            rows,
            by_latent.offsets[first : last + 1] - entries[i],
            per_sample_weights=values[uses],
            mode="sum",
            include_last_offset=True,
        )
        if extra is not None:
            more = slice(extras[i], extras[i + 1])
            gradient.index_add_(0, extra.latents[more] - first, extra.rows[more])
        use(first, last, gradient)


def _project(gradient: Tensor, weight: Tensor) -> None:
    along = torch.linalg.vecdot(gradient, weight)
    gradient.addcmul_(weight, along[:, None], value=-1)


def _update(
    weight: Tensor, gradient: Tensor, moments: Moments, adam: AdamSettings, project: bool, unit_norm: bool
) -> None:
    if project:
        _project(gradient, weight)
    adamw(
        [weight],
        [gradient],
        [moments.first],
        [moments.second],
        [],
        [torch.tensor(float(adam.step - 1))],  # counted up before its use
        fused=True,
        amsgrad=False,
        beta1=adam.beta1,
        beta2=adam.beta2,
        lr=adam.lr,
        weight_decay=adam.weight_decay,
        eps=adam.eps,
        maximize=False,
    )
    if unit_norm:
        weight /= torch.linalg.vector_norm(weight, dim=1, keepdim=True)
