"""The kernels for CUDA, written in Triton; on the CPU they run in Triton's interpreter, which is how CI tests them.

Selection in low precision, everything after it sparse and in float32. `plan` cuts the problem; `select` (with `product`
and `largest`), `gather`, `latents` and `rows` compute. Imported when it is chosen: only here is Triton needed.
"""

import os

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # as it always was; newer Tritons warn unless one says so

from monosem.kernels.triton.gather import decode, values_at
from monosem.kernels.triton.largest import keep_largest
from monosem.kernels.triton.latents import (
    by_latent,
    code_gradients,
    latent_gradient,
    sum_by_latent,
    update_from_codes,
)
from monosem.kernels.triton.launch import dense_products
from monosem.kernels.triton.rows import project_rows, update_rows
from monosem.kernels.triton.select import select_above, select_topk

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
