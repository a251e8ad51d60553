"""What a contestant of `synthetic.py` left on disk, as something to measure: our SAE, or a peer's weights and rule."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from monosem.evaluate.recovery import Learned
from monosem.sae import files


class DenseCodes(NamedTuple):
    """Codes laid out."""

    values: Tensor

    def dense(self) -> Tensor:
        return self.values


def learned_by(folder: Path, probe: Tensor) -> Learned:
    """What a run left: our SAE, or a peer's weights, checked against the peer's own reconstruction of `probe`."""
    if not (folder / "rule.json").exists():
        sae = files.load(folder)
        signed = sae.config.sparsity == "abstopk"
        return Learned(sae.W_dec.detach(), sae.b_pre.detach(), sae.encode, signed)
    rule = json.loads((folder / "rule.json").read_text())
    weights = load_file(folder / "weights.safetensors")

    def encode(x: Tensor) -> DenseCodes:
        pre = torch.addmm(weights["b_enc"], x - weights["b_in"], weights["w_enc"].T)
        return DenseCodes(active(pre, rule["rule"], rule["k"], weights.get("threshold")))

    if "probe" in weights:
        x_hat = encode(probe[: len(weights["probe"])]).dense() @ weights["w_dec"] + weights["b_out"]
        error = float((x_hat - weights["probe"]).norm() / weights["probe"].norm())
        assert error < 1e-3, f"the weights in {folder} do not give the package's own reconstruction: {error:.3g}"
    return Learned(weights["w_dec"], weights["b_out"], encode, signed=rule["rule"] == "abstopk")


def active(pre: Tensor, rule: str, k: int, threshold: Tensor | None) -> Tensor:
    """Codes [B, n] of pre-activations [B, n]."""
    if rule in ("topk", "abstopk"):
        rank = pre.abs() if rule == "abstopk" else pre
        chosen = rank.topk(k, dim=1).indices
        codes = torch.zeros_like(pre).scatter_(1, chosen, pre.gather(1, chosen))
        return codes if rule == "abstopk" else codes.relu_()
    codes = pre.relu()
    return codes if threshold is None else codes * (codes > threshold)
