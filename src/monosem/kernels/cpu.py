"""The kernels for CPUs: everything after the selection is sparse, and nothing is allocated that could be reused.

Gradients and their AdamW step walk over the latents in blocks that stay in the cache. Where codes are dense (the first
steps of a sparsity that learns its own L0) chunks and blocks turn into dense products. Sums run in a fixed order, so
the same input gives the same bits. Selection is in `cpu_select`.
"""

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.adamw import adamw

from monosem.kernels.adam import AdamSettings, Moments
from monosem.kernels.codes import Backward, ByLatent, DenseRows, Pattern, Workspace
from monosem.kernels.cpu_select import select_above, select_topk
from monosem.kernels.reference import dense_products, keep_largest, sum_by_latent

__all__ = [
    "by_latent",
    "code_gradients",
    "decode",
    "dense_products",
    "keep_largest",
    "latent_gradient",
    "project_rows",
    "select_above",
    "select_topk",
    "sum_by_latent",
    "update_from_codes",
    "update_rows",
    "values_at",
]

BLOCK_VALUES = 1 << 19
"""Gradient values computed and applied at a time: 2 MiB."""
DENSE_VALUES = 1 << 22
"""Values of a dense chunk of codes: 16 MiB."""
DENSE_FROM = 16
"""Codes with more than one active entry in this many are faster as dense products."""


def values_at(rows: Tensor, weight: Tensor, pattern: Pattern, bias: Tensor | None = None) -> Tensor:
    """See `reference.values_at`."""
    if _is_dense(len(pattern.indices), pattern.rows, pattern.n):
        return _dense_values_at(rows, weight, pattern, bias)
    start = rows.new_zeros(len(pattern.indices)) if bias is None else bias[pattern.indices]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        sampled = torch.sparse_csr_tensor(
            pattern.offsets, pattern.indices, start, size=(pattern.rows, pattern.n), check_invariants=False
        )
    return torch.sparse.sampled_addmm(sampled, rows, weight.T, beta=0.0 if bias is None else 1.0).values()


def decode(values: Tensor, pattern: Pattern, weight: Tensor) -> Tensor:
    """See `reference.decode`."""
    if _is_dense(len(pattern.indices), pattern.rows, pattern.n):
        return _dense_decode(values, pattern, weight)
    return F.embedding_bag(
        pattern.indices, weight, pattern.offsets, per_sample_weights=values, mode="sum", include_last_offset=True
    )


def by_latent(pattern: Pattern) -> ByLatent:
    """See `reference.by_latent`."""
    order = torch.sort(pattern.indices, stable=True).indices
    offsets = torch.zeros(pattern.n + 1, dtype=torch.int32)
    offsets[1:] = torch.bincount(pattern.indices, minlength=pattern.n).cumsum(0)
    return ByLatent(pattern.row_of_entry()[order].int(), offsets, order)


def code_gradients(
    values: Tensor,  # noqa: ARG001
    pattern: Pattern,
    by_latent: ByLatent,  # noqa: ARG001
    d_output: Tensor,
    weight: Tensor,
    workspace: Workspace,  # noqa: ARG001
) -> Backward:
    """See `reference.code_gradients`."""
    return Backward(values_at(d_output, weight, pattern), None)


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
        latents, offsets = last - first, by_latent.offsets[first : last + 1] - entries[i]
        if _is_dense(entries[i + 1] - entries[i], len(rows), latents):
            # never a chunk of rows here: a latent's whole sum is one product
            codes = values.new_zeros(latents, len(rows))
            latent = torch.repeat_interleave(
                torch.arange(latents), offsets.diff(), output_size=entries[i + 1] - entries[i]
            )
            codes.view(-1)[latent * len(rows) + by_latent.rows[uses]] = values[uses]
            gradient = codes @ rows
        else:
            gradient = F.embedding_bag(
                by_latent.rows[uses],
                rows,
                offsets,
                per_sample_weights=values[uses],
                mode="sum",
                include_last_offset=True,
            )
        if extra is not None:
            more = slice(extras[i], extras[i + 1])
            gradient.index_add_(0, extra.latents[more] - first, extra.rows[more])
        use(first, last, gradient)


def _is_dense(entries: int, rows: int, n: int) -> bool:
    return entries * DENSE_FROM > rows * n


def _dense_chunks(pattern: Pattern) -> Iterator[tuple[slice, slice, Tensor]]:
    """Chunks of rows: their slice, that of their entries, and where `[chunk, n]` holds each entry when flat."""
    chunk = max(1, DENSE_VALUES // pattern.n)
    place = pattern.row_of_entry() % chunk * pattern.n + pattern.indices
    for first in range(0, pattern.rows, chunk):
        last = min(first + chunk, pattern.rows)
        entries = slice(int(pattern.offsets[first]), int(pattern.offsets[last]))
        yield slice(first, last), entries, place[entries]


def _dense_values_at(rows: Tensor, weight: Tensor, pattern: Pattern, bias: Tensor | None) -> Tensor:
    values = rows.new_empty(len(pattern.indices))
    for part, entries, place in _dense_chunks(pattern):
        products = rows[part] @ weight.T if bias is None else torch.addmm(bias, rows[part], weight.T)
        torch.index_select(products.view(-1), 0, place, out=values[entries])
    return values


def _dense_decode(values: Tensor, pattern: Pattern, weight: Tensor) -> Tensor:
    decoded = values.new_empty(pattern.rows, weight.shape[1])
    for part, entries, place in _dense_chunks(pattern):
        codes = values.new_zeros(part.stop - part.start, pattern.n)
        codes.view(-1)[place] = values[entries]
        torch.mm(codes, weight, out=decoded[part])
    return decoded


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
