"""Whole training through the Triton kernels, in their interpreter, beside the twins: the seam needs no special case."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from drawn import normal
from torch import Tensor

from monosem.kernels import Kernels, Pattern, Workspace, triton
from monosem.kernels.triton import plan
from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.sae.losses import AuxK
from monosem.sae.nested import Nested
from monosem.sae.objective import Objective
from monosem.sae.penalties import Penalty
from monosem.train.optim import OptimSettings
from monosem.train.step import StepResult, StepSettings, TrainStep

D, N, K, BATCH = 7, 26, 3, 10
PLAIN = Objective(AuxK(8, budget=1e9), exact=True)
WAYS = {
    "topk": PLAIN,
    "abstopk": PLAIN,
    "batchtopk": PLAIN,
    "jumprelu": replace(PLAIN, penalty=Penalty("l0", 0.5, target=K)),
    "relu": replace(PLAIN, penalty=Penalty("l1", 2.0), free_norms=True),
    "matryoshka": replace(PLAIN, nested=Nested.matryoshka([8, 16], N)),
    "multi-topk": replace(PLAIN, nested=Nested.multi_topk(K, [4 * K], 1 / 8)),
}
SPARSITY = {"matryoshka": "batchtopk", "multi-topk": "topk"}
OPTIM = OptimSettings(lr=3e-3, schedule="constant", betas=(0.9, 0.99), eps=1e-8, total_steps=10)


def batch(seed: int) -> Tensor:
    return normal(seed, BATCH, D) * torch.arange(1, D + 1) ** -0.5


def curve(monkeypatch: pytest.MonkeyPatch, kernels: str, way: str, steps: int, **settings) -> list[StepResult]:
    """Some steps of a small SAE, some of whose latents are dead from the second on."""
    monkeypatch.setenv("MONOSEM_KERNELS", kernels)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    config = SaeConfig(D, N, K, SPARSITY.get(way, way), normalisation="none")
    sae = Autoencoder(config, torch.Generator().manual_seed(0), threshold=0.4)
    optim = replace(OPTIM, clip=settings.pop("clip", None))
    step = TrainStep(sae, StepSettings(optim, WAYS[way], dead_window=BATCH, **settings))
    return [step.step(batch(seed)) for seed in range(steps)]


def assert_same_curve(ours: list[StepResult], twins: list[StepResult]) -> None:
    for mine, twin in zip(ours, twins, strict=True):
        assert mine.loss == pytest.approx(twin.loss, rel=1e-4)
        assert (mine.l0, mine.n_dead) == (twin.l0, twin.n_dead)
        assert mine.aux == pytest.approx(twin.aux, rel=1e-3)


def test_topk_trains_as_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, twins = (curve(monkeypatch, kernels, "topk", 3) for kernels in ("triton", "reference"))
    assert_same_curve(ours, twins)
    assert ours[-1].n_dead > 0  # AuxK took part
    again = curve(monkeypatch, "triton", "topk", 3)
    assert [result.loss for result in again] == [result.loss for result in ours]  # to the bit


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_sparsity_trains_as_its_twin(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, twins = (curve(monkeypatch, kernels, way, 4) for kernels in ("triton", "reference"))
    assert_same_curve(ours, twins)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"clip": 0.01}, {"micro_batch": 7}, {"micro_batch": 7, "clip": 0.01}])
@pytest.mark.parametrize("kept", [True, False])
def test_gradients_that_are_tensors(settings: dict, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "keeps_gradient", lambda *_: kept)
    ours, twins = (curve(monkeypatch, kernels, "topk", 4, **settings) for kernels in ("triton", "reference"))
    assert_same_curve(ours, twins)


def everything(kernels: Kernels) -> list[Tensor]:
    """What every kernel whose sums could change their order makes of one input."""
    pattern = Pattern.fixed(torch.stack([torch.full((60,), 3), torch.arange(60) % 7 + 4], 1), 12)
    values, rows, weight = normal(0, 120), normal(1, 60, 9), normal(2, 12, 9)
    order, workspace = kernels.by_latent(pattern), Workspace()
    back = kernels.code_gradients(values, pattern, order, rows, weight, workspace)
    assert back.weight is not None
    return [
        kernels.decode(values, pattern, weight),
        kernels.latent_gradient(values, order, rows, None, torch.empty(12, 9)),
        kernels.sum_by_latent(values, pattern, order),
        back.values,
        back.weight,
    ]


def test_the_same_input_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SEGMENT", 8)
    for first, second in zip(everything(triton), everything(triton), strict=True):
        assert torch.equal(first, second)


@pytest.mark.slow
def test_a_run_of_the_command_line_has_the_twin_s_loss_curve(tiny_recipe: Path, tmp_path: Path) -> None:
    curves = []
    options = ["--corpus.max-documents", "8", "--train.batch", "16", "--train.epochs", "1", "--train.validations", "1"]
    options += ["--train.precision", "float32", "--name", "run"]

    def monosem(command: str, runs: str, kernels: str) -> None:
        arguments = [sys.executable, "-m", "monosem", command, str(tiny_recipe), "--runs", str(tmp_path / runs)]
        subprocess.run([*arguments, *options], check=True, env={**os.environ, "MONOSEM_KERNELS": kernels})

    for command in ("sentences", "capture", "prepare"):
        monosem(command, "triton", "")
    shutil.copytree(tmp_path / "triton", tmp_path / "reference")
    for kernels in ("triton", "reference"):
        monosem("train", kernels, kernels)
        lines = [json.loads(line) for line in (tmp_path / kernels / "run" / "metrics.jsonl").read_text().splitlines()]
        curves.append([line["loss"] for line in lines if "loss" in line])
    assert len(curves[0]) >= 5
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


def test_the_largest_planned_shape_fits_a_gpu_of_80_gb() -> None:
    """2^18 latents, batch 32,768: weights and moments are 26 GB of it, and pre-activations never more than 1 GiB."""
    parts = plan.memory(3072, 1 << 18, 32, 32_768)
    assert parts["pre-activations"] <= plan.PRE_BYTES < 32_768 * (1 << 18) * 2
    assert parts["weights"] + parts["moments"] == 6 * 3072 * (1 << 18) * 4
    assert sum(parts.values()) < 40e9
    assert sum(plan.memory(3072, 65_536, 64, 8192).values()) < 12e9


def test_the_plan_s_buffers_are_those_that_a_step_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONOSEM_KERNELS", "triton")
    monkeypatch.setattr(plan, "BLOCK_ROWS", 8)
    monkeypatch.setattr(plan, "PRE_BYTES", 1000)
    sae = Autoencoder(SaeConfig(D, N, K, normalisation="none"), torch.Generator().manual_seed(0))
    step = TrainStep(sae, StepSettings(OPTIM, Objective(AuxK(8))))
    step.step(batch(0))
    parts = plan.memory(D, N, K, BATCH)
    taken = {name: buffer.numel() * buffer.element_size() for name, buffer in step.workspace.buffers.items()}
    assert taken["select.weight"] == parts["encoder in bfloat16"]
    assert taken["select.pre"] == parts["pre-activations"]
    assert taken.get("backward.gradient", 0) == parts["decoder's gradient"]
    assert taken["select.tiles"] + taken["select.torch.bfloat16"] == parts["maxima and tiles"]
    kept = sum(t.numel() * 4 for t in (sae.W_enc, sae.W_dec))
    assert (kept, 2 * kept) == (parts["weights"], parts["moments"])
