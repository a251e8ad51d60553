"""FVU of an SAE over held-out activations, in one pass, with float64 sums."""

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

import torch

from monosem.sae.autoencoder import Autoencoder
from monosem.store.pairs import Sample


class Validation(NamedTuple):
    """One validation pass."""

    fvu: float
    """sum |x - x_hat|^2 / sum |x - mean|^2, x being the target, the mean that of the rows read."""
    l0: float
    activations: int
    variance: float
    """Total variance of the target about its mean: of the activations alone, not of the SAE."""


@torch.no_grad()
def validate(sae: Autoencoder, batches: Iterable[Sample], variance: float | None = None) -> Validation:
    """Measure `sae` on `batches` of raw activations, codes selected as training selects them.

    Of several data ranks each takes its share of the batches, which are the same for all processes.

    Args:
        variance: of the same batches, as an earlier pass found it. None: it is measured.
    """
    device, exchange = sae.W_enc.device, sae.exchange
    residual = squares = active = 0.0
    total = torch.zeros(sae.config.width_out, dtype=torch.float64, device=device)
    rows = 0
    for batch in islice(batches, exchange.data.rank, None, exchange.data.ranks):
        x, target = batch.x.to(device).float(), batch.target.to(device).float()
        rebuilt = sae.reconstruct(x)
        residual += float((target - rebuilt.x_hat).double().square().sum())
        if variance is None:
            # about the store's mean, so that the difference below loses no digits
            centred = (target - sae.output.mean).double()
            squares += float(centred.square().sum())
            total += centred.sum(0)
        active += rebuilt.active
        rows += len(x)
    counted = (residual, squares, rows) if exchange.first else (0.0, 0.0, 0)
    residual, squares, rows, active = exchange.total([*counted, active])
    rows = int(rows)
    if variance is None:
        total = exchange.add_data(total)()
        variance = squares - float(total.square().sum()) / max(rows, 1)
    return Validation(residual / variance if variance > 0 else float("nan"), active / max(rows, 1), rows, variance)
