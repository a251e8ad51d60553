"""AuxK: its plan, and its gradients against float64 autograd of its definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.kernels import Workspace, cpu
from monosem.sae.losses import AuxK, AuxPlan, Revival, Weights, squared_sum, total_variance


def test_the_plan_follows_the_number_of_dead_latents() -> None:
    aux = AuxK(k_aux=100, budget=1.0)
    assert aux.plan(0, 1000, 64) is None
    assert aux.plan(20, 1000, 64) == AuxPlan(k=20, scale=0.2, rows=64)
    assert aux.plan(200, 1000, 64) == AuxPlan(k=100, scale=1.0, rows=64)
    assert aux.plan(400, 1000, 64) == AuxPlan(k=100, scale=2.0, rows=32)  # half of the batch, weighted twice
    assert aux.plan(1000, 1000, 3) == AuxPlan(k=100, scale=3.0, rows=1)


def test_the_gate_keeps_a_floor_and_nothing_runs_without_weight() -> None:
    gated = AuxK(k_aux=100, gate=True)
    assert gated.plan(99, 1000, 64) is None
    assert gated.plan(100, 1000, 64) == AuxK(k_aux=100).plan(100, 1000, 64)
    assert AuxK(k_aux=100, coefficient=0).plan(500, 1000, 64) is None


@given(
    rows=st.integers(1, 30),
    d=st.integers(1, 15),
    n_dead=st.integers(1, 40),
    k=st.integers(1, 40),
    part=st.integers(1, 30),
    seed=st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_gradients_equal_autograd(rows: int, d: int, n_dead: int, k: int, part: int, seed: int) -> None:
    n, k, part = n_dead + 7, min(k, n_dead), min(part, rows)
    generator = torch.Generator().manual_seed(seed)
    z, error = torch.randn(rows, d, generator=generator), torch.randn(rows, d, generator=generator)
    weights = [torch.randn(*shape, generator=generator) for shape in ((n, d), (n,), (n, d))]
    dead = torch.randperm(n, generator=generator)[:n_dead].sort().values
    plan, coefficient, variance = AuxPlan(k, 0.7 * rows / part, part), 0.3, 5.0
    revival = Revival(z, Weights(*weights), dead, plan, cpu, Workspace())
    revival.decode(error)
    ours = revival.gradients(coefficient, variance)

    w_enc, b_enc, w_dec = (weight.double().requires_grad_() for weight in weights)
    chosen = torch.arange(part) * rows // part
    pre = z.double()[chosen] @ w_enc[dead].T + b_enc[dead]
    kept = torch.zeros_like(pre).scatter(1, pre.topk(k, dim=1).indices, 1.0)
    residual = -error.double()[chosen]
    loss = plan.scale * ((pre * kept).relu() @ w_dec[dead] - residual).square().sum() / variance
    (coefficient * loss).backward()
    assert ours.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    for mine, parameter in ((ours.w_enc, w_enc), (ours.b_enc, b_enc), (ours.w_dec, w_dec)):
        gradient = parameter.grad
        assert gradient is not None
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(mine.double(), gradient[dead], rtol=1e-4, atol=1e-5 * scale)
        assert float(gradient.abs().sum()) == pytest.approx(float(gradient[dead].abs().sum()))


def test_sums_keep_their_digits_far_from_zero() -> None:
    z = torch.randn(4000, 9, generator=torch.Generator().manual_seed(0)) + 300
    expected = float((z.double() - z.double().mean(0)).square().sum())
    assert total_variance(z, Workspace()) == pytest.approx(expected, rel=1e-5)
    assert squared_sum(z) == pytest.approx(float(z.double().square().sum()), rel=1e-6)
