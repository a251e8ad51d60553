"""Whole steps of every sparsity: they learn, repeat, resume, split into parts, and leave an SAE that works alone."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from monosem.kernels import cpu_select
from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.sae.losses import AuxK
from monosem.sae.nested import Nested
from monosem.sae.objective import Objective
from monosem.sae.penalties import Penalty
from monosem.store.pairs import Sample
from monosem.train.optim import OptimSettings
from monosem.train.resample import resample
from monosem.train.step import StepSettings, TrainStep
from monosem.train.update import Updater

D, N, K, BATCH = 16, 128, 6, 256
OPTIM = OptimSettings(lr=3e-3, schedule="constant", betas=(0.9, 0.99), eps=1e-8, total_steps=100, threshold_rate=5)
OBJECTIVE = Objective(AuxK(8))
WAYS = {
    "topk": OBJECTIVE,
    "abstopk": OBJECTIVE,
    "batchtopk": OBJECTIVE,
    "jumprelu": replace(OBJECTIVE, penalty=Penalty("l0", 0.5, target=K, warmup_steps=20)),
    "relu": replace(OBJECTIVE, penalty=Penalty("l1", 2.0, warmup_steps=20)),
    "matryoshka": replace(OBJECTIVE, nested=Nested.matryoshka([16, 48], N)),
    "multi-topk": replace(OBJECTIVE, nested=Nested.multi_topk(K, [4 * K], 1 / 8)),
    "free": replace(OBJECTIVE, penalty=Penalty("l1", 2.0), free_norms=True),
    "tanh": replace(OBJECTIVE, penalty=Penalty("tanh", 0.2, silent=1e-3)),
}
SPARSITY = {"matryoshka": "batchtopk", "multi-topk": "topk", "free": "relu", "tanh": "jumprelu"}


def batch(seed: int) -> Tensor:
    """Sparse sums of a fixed dictionary: something that can be learned."""
    dictionary = torch.nn.functional.normalize(torch.randn(40, D, generator=torch.Generator().manual_seed(0)), dim=1)
    generator = torch.Generator().manual_seed(100 + seed)
    codes = torch.rand(BATCH, 40, generator=generator) * (torch.rand(BATCH, 40, generator=generator) < 0.1)
    return 4 * codes @ dictionary


def make_step(way: str, **settings) -> TrainStep:
    config = SaeConfig(D, N, K, SPARSITY.get(way, way), normalisation="none")
    sae = Autoencoder(config, torch.Generator().manual_seed(0), encoder_norm=0.5, threshold=None)
    return TrainStep(sae, StepSettings(OPTIM, WAYS[way], dead_window=1000, bandwidth=1.0, **settings))


@pytest.mark.parametrize("way", WAYS)
def test_it_learns(way: str) -> None:
    step = make_step(way)
    results = [step.step(batch(i)) for i in range(80)]
    assert results[-1].main < 0.6 * results[0].main or results[-1].main < 0.1
    assert results[-1].loss >= results[-1].main
    rebuilt = step.sae.reconstruct(batch(99))
    error = (batch(99) - rebuilt.x_hat).square().sum() / (batch(99) - batch(99).mean(0)).square().sum()
    assert float(error) == pytest.approx(results[-1].main, rel=0.25)  # used alone it is what training saw
    codes = step.sae.encode(batch(99))
    # low precision may choose another latent where two are nearly equal, which changes a few vectors a little
    assert float((step.sae.decode(codes) - rebuilt.x_hat).square().mean()) < 1e-2
    norms = step.sae.W_dec.detach().norm(dim=1)
    assert (float((norms - 1).abs().max()) > 1e-3) == step.settings.objective.free_norms


@pytest.mark.parametrize("way", ["jumprelu", "batchtopk", "matryoshka"])
def test_l0_arrives_where_it_is_aimed(way: str) -> None:
    step = make_step(way)
    for i in range(300):
        result = step.step(batch(i % 50))
    assert result.l0 == pytest.approx(K, rel=0.15)
    assert step.sae.encode(batch(99)).l0() == pytest.approx(K, rel=0.25)


@pytest.mark.parametrize("way", WAYS)
def test_a_loaded_state_continues_bit_for_bit(way: str) -> None:
    whole, resumed = make_step(way, ema=0.9), make_step(way, ema=0.9)
    for i in range(3):
        whole.step(batch(i))
    saved = copy.deepcopy(whole.state_dict())
    resumed.step(batch(50))  # a used one must be overwritten whole
    resumed.load_state_dict(saved)
    for i in range(3, 7):
        ours, theirs = whole.step(batch(i)), resumed.step(batch(i))
        assert ours.loss == theirs.loss
    for (name, tensor), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(torch.as_tensor(tensor), torch.as_tensor(other)), name


@pytest.mark.parametrize("way", [way for way in WAYS if SPARSITY.get(way, way) != "batchtopk"])
@pytest.mark.parametrize("clip", [None, 0.01])
def test_parts_of_a_batch_add_up(way: str, clip: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_select, "has_fast_bf16", lambda: False)
    whole, parts = make_step(way), make_step(way, micro_batch=100)
    for step in (whole, parts):
        step.updater._optim = replace(OPTIM, clip=clip)
    for i in range(3):
        one, many = whole.step(batch(i)), parts.step(batch(i))
        if way != "jumprelu":  # L0 is squared, which parts of a batch are not
            assert many.loss == pytest.approx(one.loss, rel=1e-4)
        assert many.main == pytest.approx(one.main, rel=1e-3)
        assert len(many.fired) == pytest.approx(len(one.fired), rel=0.01)
    torch.testing.assert_close(parts.sae.W_dec, whole.sae.W_dec, rtol=0.02, atol=0.01)


def test_the_running_average_lags_behind_and_is_what_is_kept() -> None:
    step = make_step("topk", ema=0.99)
    start = step.sae.W_enc.detach().clone()
    for i in range(30):
        step.step(batch(i))
    average = step.averaged()
    moved = (step.sae.W_enc.detach() - start).norm()
    assert 0 < (average.W_enc.detach() - start).norm() < moved
    torch.testing.assert_close(average.W_dec.norm(dim=1), torch.ones(N))
    assert make_step("topk").averaged().W_enc is not average.W_enc
    plain = make_step("topk")
    assert plain.averaged() is plain.sae


def test_batchtopk_s_threshold_follows_the_smallest_kept_value() -> None:
    step = make_step("batchtopk")
    first = step.step(batch(0))
    assert step.sae.threshold is not None
    assert float(step.sae.threshold) == float(first.fired_values.min())
    second = step.step(batch(1))
    expected = 0.25 * float(first.fired_values.min()) + 0.75 * float(second.fired_values.min())  # at most 3 / 12
    assert float(step.sae.threshold) == pytest.approx(expected, rel=1e-6)
    assert len(first.fired) == K * BATCH


def test_folded_norms_change_no_reconstruction() -> None:
    for way in ("free", "tanh"):
        step = make_step(way)
        for i in range(20):
            step.step(batch(i))
        sae = step.sae
        with torch.no_grad():
            sae.W_dec *= torch.linspace(0.5, 2, N)[:, None]
        before = sae(batch(30)).x_hat
        sae.fold_norms()
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(N))
        torch.testing.assert_close(sae(batch(30)).x_hat, before, rtol=1e-4, atol=1e-4)


def test_dead_latents_start_anew_from_what_is_reconstructed_badly() -> None:
    step = make_step("relu", ema=0.9)
    for i in range(3):
        step.step(batch(i))
    dead = torch.tensor([3, 40, 77])
    step.dead.silent_for.zero_()[dead] = 5000
    odd = batch(5)
    odd[:3] = torch.eye(D)[:3] * 500  # three inputs that nothing reconstructs
    before = step.sae.W_enc.detach().clone()
    count = resample(step, [Sample(x, x) for x in (batch(4), odd, batch(6))], torch.Generator().manual_seed(0))
    assert count == 3
    sae = step.sae
    z = sae.normalise(odd[:3]).z
    expected = torch.nn.functional.normalize(z, dim=1)
    cosine = (sae.W_dec[dead] @ expected.T).detach()
    assert cosine.max(1).values.min() > 0.999
    assert set(cosine.argmax(1).tolist()) == {0, 1, 2}  # without replacement
    live = torch.ones(N, dtype=torch.bool)
    live[dead] = False
    torch.testing.assert_close(sae.W_enc[dead].norm(dim=1), (0.2 * before[live].norm(dim=1).mean()).expand(3))
    assert torch.equal(sae.W_enc[live], before[live])
    assert not step.updater.moments["W_enc"].second[dead].any()
    assert len(step.dead.dead()) == 0
    assert resample(step, [Sample(odd, odd)], torch.Generator()) == 0


def test_thresholds_start_from_the_first_batch() -> None:
    step = make_step("jumprelu", ema=0.9)
    assert step.sae.log_threshold is not None
    assert bool(step.sae.log_threshold.isnan().all())
    assert step.step(batch(0)).l0 == pytest.approx(K, rel=0.05)
    assert bool(step.averaged().encoder().threshold.isfinite().all())  # pyright: ignore[reportOptionalMemberAccess]
    given = step.sae.log_threshold.detach().clone()
    step.sae.start_thresholds(batch(1))
    assert torch.equal(step.sae.log_threshold.detach(), given)


def test_biases_have_a_rate_of_their_own() -> None:
    steps = [make_step("relu"), make_step("relu")]
    steps[1].updater = Updater(steps[1].sae, replace(OPTIM, bias_rate=10.0), steps[1].workspace, free_norms=False)
    for step in steps:
        step.step(batch(0))
    slow, fast = (step.sae for step in steps)
    torch.testing.assert_close(fast.b_enc.detach(), 10 * slow.b_enc.detach())
    assert torch.equal(fast.W_enc.detach(), slow.W_enc.detach())
