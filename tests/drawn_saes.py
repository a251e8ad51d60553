"""Random SAEs of every kind, and what an SAE in raw units computes, written out densely in float64."""

from typing import NamedTuple

import torch
from torch import Tensor

from monosem.sae.autoencoder import Autoencoder, Normalisation, SaeConfig
from monosem.sae.formats.plain import Plain
from monosem.sae.initialise import Statistics

D, N, K = 12, 40, 5


class Computed(NamedTuple):
    """Codes [B, n] and reconstructions [B, d_out]."""

    codes: Tensor
    x_hat: Tensor


def activations(seed: int = 0, rows: int = 64, d: int = D) -> Tensor:
    """[rows, d] vectors as a residual stream has them: far from the origin, of some tens in size."""
    draw = torch.Generator().manual_seed(seed)
    return 20 * torch.randn(rows, d, generator=draw) + 15 * torch.randn(d, generator=draw)


def draw_sae(
    sparsity: str = "topk",
    normalisation: Normalisation = "dataset",
    seed: int = 0,
    *,
    d_out: int | None = None,
    skip: bool = False,
    prefixes: tuple[int, ...] = (),
) -> Autoencoder:
    """An SAE with nothing left at zero; a transcoder with `d_out`."""
    draw = torch.Generator().manual_seed(1000 + seed)
    target = {"d_out": d_out, "target_hook_point": "3.mlp_out", "skip": skip} if d_out else {}
    config = SaeConfig(
        D, N, K, sparsity, normalisation, "hf:an/lm", "3.resid_post", norm_threshold=2410.5, prefixes=prefixes, **target
    )  # fmt: skip
    of_target = Statistics(7 * torch.randn(d_out, generator=draw), 0.21) if d_out else None
    sae = Autoencoder(
        config,
        draw,
        Statistics(15 * torch.randn(D, generator=draw), 0.043) if normalisation == "dataset" else None,
        0.3 * torch.randn(D, generator=draw),
        0.8,
        target=of_target if normalisation != "none" else None,
    )
    with torch.no_grad():
        sae.b_enc += 0.2 * torch.randn(N, generator=draw)
        for extra in (sae.b_dec, sae.W_skip):
            if extra is not None:
                extra += 0.1 * torch.randn(extra.shape, generator=draw)
        if sae.threshold is not None:
            sae.threshold.fill_(0.37)
        if sae.log_threshold is not None:
            sae.log_threshold.copy_(0.5 * torch.randn(N, generator=draw) - 1)
    return sae


def ours(sae: Autoencoder, x: Tensor) -> Computed:
    """What our model computes."""
    x_hat, codes = sae(x)
    return Computed(codes.dense(), x_hat)


def active(pre: Tensor, sparsity: str, k: int, threshold: Tensor | None) -> Tensor:
    """Codes of pre-activations [B, n]."""
    if sparsity in ("topk", "abstopk"):
        chosen = (pre.abs() if sparsity == "abstopk" else pre).topk(k).indices
        values = torch.zeros_like(pre).scatter(1, chosen, pre.gather(1, chosen))
        return values if sparsity == "abstopk" else values.relu()
    return torch.where(pre > (0 if threshold is None else threshold), pre, 0).relu()


def computed(plain: Plain, x: Tensor, eps: float = 1e-6) -> Computed:
    """What an SAE in raw units computes."""
    x, mean, std = x.double(), 0.0, 1.0
    if plain.layer:
        mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True) + eps
        x = (x - mean) / std
    read = x - plain.b_dec.double() if plain.centred else x
    pre = read @ plain.W_enc.double().T + plain.b_enc.double()
    codes = active(pre, plain.sparsity, plain.k or 0, None if plain.threshold is None else plain.threshold.double())
    x_hat = codes @ plain.W_dec.double() + plain.b_dec.double()
    if plain.W_skip is not None:
        x_hat = x_hat + x @ plain.W_skip.double().T
    return Computed(codes, x_hat if plain.transcodes else x_hat * std + mean)


def assert_same(found: Computed, expected: Computed, rounding: float = 2e-5) -> None:
    """Codes and reconstructions agree, up to a share of the largest of each."""
    assert bool((expected.codes != 0).any())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=rounding * float(other.abs().max()))
