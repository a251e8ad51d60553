"""The explicit step against autograd in float64, and what it promises about bits, resume and dead latents."""

import copy
import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from monosem.errors import TrainingError
from monosem.kernels import Workspace, cpu, cpu_select
from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.sae.initialise import dataset_statistics
from monosem.sae.losses import AuxK
from monosem.sae.objective import Objective
from monosem.train.optim import OptimSettings
from monosem.train.step import StepSettings, TrainStep

OPTIM = OptimSettings(lr=3e-3, schedule="constant", betas=(0.9, 0.99), eps=1e-8, total_steps=10)


def activations(rows: int, d: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, d + 1) ** -0.5
    return torch.randn(rows, d, generator=generator) * spectrum * 4 + torch.linspace(-1, 1, d)


def make_sae(d: int, n: int, k: int, normalisation: str = "dataset") -> Autoencoder:
    x = activations(500, d, 77)
    statistics = dataset_statistics(x.mean(0), x.var(0)) if normalisation == "dataset" else None
    config = SaeConfig(d, n, k, normalisation=normalisation)  # pyright: ignore[reportArgumentType]
    sae = Autoencoder(config, torch.Generator().manual_seed(0), statistics, torch.linspace(-0.2, 0.2, d))
    with torch.no_grad():  # leave the tied start, so that a mix-up of encoder and decoder shows
        sae.W_enc.add_(0.1 * torch.randn(n, d, generator=torch.Generator().manual_seed(1)))
        sae.b_enc.add_(0.1 * torch.randn(n, generator=torch.Generator().manual_seed(2)))
    return sae


class PlainStep:
    """The same step in dense float64 autograd, with torch's AdamW; only the choice of latents is taken from ours."""

    def __init__(self, step: TrainStep) -> None:
        self.sae, self.settings = copy.deepcopy(step.sae).double(), step.settings
        optim = step.settings.optim
        self.optimizer = torch.optim.AdamW(
            self.sae.parameters(), optim.lr, optim.betas, optim.eps, optim.weight_decay, foreach=False
        )

    def step(self, x: Tensor, chosen: Tensor, dead: Tensor) -> float:
        sae, aux = self.sae, self.settings.objective.aux
        if sae.config.normalisation == "dataset":
            y = (x.double() - sae.mean) * sae.scale
        else:
            y = (x.double() - x.double().mean(1, keepdim=True)) / (x.double().std(1, keepdim=True) + 1e-6)
        pre = (y - sae.b_pre) @ sae.W_enc.T + sae.b_enc
        kept = torch.zeros_like(pre).scatter(1, chosen, 1.0)
        error = y - ((pre * kept).relu() @ sae.W_dec + sae.b_pre)
        variance = (y - y.mean(0)).square().sum()
        loss = error.square().sum() / variance
        if len(dead):
            dead_pre = pre[:, dead]
            k = min(aux.k_aux, len(dead))
            kept = torch.zeros_like(dead_pre).scatter(1, dead_pre.topk(k, dim=1).indices, 1.0)
            guess = (dead_pre * kept).relu() @ sae.W_dec[dead]
            scale = min(len(dead) / aux.k_aux, 1)
            loss = loss + aux.coefficient * scale * (guess - error.detach()).square().sum() / variance
        self.optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            gradient = sae.W_dec.grad
            assert gradient is not None
            gradient -= (gradient * sae.W_dec).sum(1, keepdim=True) * sae.W_dec
            if self.settings.optim.clip is not None:
                torch.nn.utils.clip_grad_norm_(sae.parameters(), self.settings.optim.clip)
            self.optimizer.step()
            sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
        return float(loss.detach())


def same_bits(ours: Iterable[object], theirs: Iterable[object]) -> bool:
    """Whether two sequences of numbers and tensors are equal bit for bit."""
    return all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
        for a, b in zip(ours, theirs, strict=True)
    )


def chosen_latents(step: TrainStep, x: Tensor) -> Tensor:
    sae = step.sae
    with torch.no_grad():
        z = sae.normalise(x).z
        return cpu.select_topk(z, sae.W_enc, sae.b_enc, sae.config.k, Workspace(), exact=False)


@pytest.mark.parametrize(
    ("d", "n", "k", "normalisation", "k_aux", "clip"),
    [
        (16, 100, 4, "dataset", 8, None),
        (17, 131, 5, "layer", 30, None),
        (16, 100, 1, "dataset", 200, None),
        (12, 300, 9, "dataset", 6, 0.05),
        (7, 24, 24, "layer", 4, None),
    ],
)
def test_steps_equal_autograd(d: int, n: int, k: int, normalisation: str, k_aux: int, clip: float | None) -> None:
    sae = make_sae(d, n, k, normalisation)
    aux = AuxK(k_aux=k_aux, coefficient=0.5, budget=math.inf)
    settings = StepSettings(replace(OPTIM, clip=clip, weight_decay=0.01), Objective(aux), dead_window=150)
    ours = TrainStep(sae, settings)
    plain = PlainStep(ours)
    with_dead = 0
    for i in range(6):
        x = activations(60, d, i)
        dead = ours.dead.dead()
        expected = plain.step(x, chosen_latents(ours, x), dead)
        result = ours.step(x)
        with_dead += result.n_dead > 0
        assert result.n_dead == len(dead)
        assert result.loss == pytest.approx(expected, rel=1e-5)
        for name, value in plain.sae.named_parameters():
            torch.testing.assert_close(
                sae.get_parameter(name).double(), value, rtol=1e-3, atol=1e-5, msg=f"{name} at {i}"
            )
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(n), rtol=1e-6, atol=1e-6)
    assert with_dead >= 2 or k == n  # the auxiliary loss took part


def test_the_twin_kernels_make_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    x = activations(80, 16, 5)
    results = []
    for switch in ("", "reference"):
        monkeypatch.setenv("MONOSEM_KERNELS", switch)
        monkeypatch.setattr(cpu_select, "has_fast_bf16", lambda: False)
        step = TrainStep(make_sae(16, 90, 4), StepSettings(OPTIM, Objective(AuxK(8)), dead_window=100))
        results.append((step.step(x), step.step(x), step.sae.W_enc.detach(), step.sae.W_dec.detach()))
    (first, second, enc, dec), (first_twin, second_twin, enc_twin, dec_twin) = results
    assert first.loss == pytest.approx(first_twin.loss, rel=1e-5)
    assert second.loss == pytest.approx(second_twin.loss, rel=1e-5)
    torch.testing.assert_close(enc, enc_twin, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(dec, dec_twin, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("k_aux", "gate", "runs"), [(8, False, True), (8, True, True), (60, False, True), (60, True, False)]
)
def test_auxk_reaches_encoder_and_decoder_of_dead_latents(k_aux: int, gate: bool, runs: bool) -> None:
    sae = make_sae(16, 100, 2)
    with torch.no_grad():
        sae.W_enc[:40] *= 1e-3  # too faint to be chosen, so that nothing but AuxK can move them
        sae.b_enc[:40] = 0
    step = TrainStep(sae, StepSettings(OPTIM, Objective(AuxK(k_aux, gate=gate)), dead_window=10_000))
    step.dead.silent_for[:40] = 10_000
    before = {name: sae.get_parameter(name).detach().clone() for name in ("W_enc", "b_enc", "W_dec")}
    result = step.step(activations(64, 16, 0))
    assert result.n_dead == 40
    assert (result.aux > 0) is runs
    for name, old in before.items():
        # W_dec is renormalised, which may change a last bit
        moved = (sae.get_parameter(name).detach()[:40] - old[:40]).abs().reshape(40, -1).amax(1) > 1e-6
        assert bool(moved.any()) is runs, name
        assert (float(moved.float().mean()) > 0.2) is runs, name


def test_same_input_gives_the_same_bits() -> None:
    runs = []
    for _ in range(2):
        step = TrainStep(make_sae(33, 500, 8), StepSettings(OPTIM, Objective(AuxK(16)), dead_window=600))
        results = [step.step(activations(300, 33, i)) for i in range(4)]
        runs.append((results, step.state_dict()))
    (results, state), (results_again, state_again) = runs
    assert all(same_bits(a, b) for a, b in zip(results, results_again, strict=True))
    assert same_bits(state.values(), state_again.values())


def test_a_loaded_state_continues_bit_for_bit() -> None:
    settings = StepSettings(
        replace(OPTIM, schedule="cosine"), Objective(AuxK(16)), dead_window=600, k_start=20, k_steps=5
    )
    whole = TrainStep(make_sae(20, 400, 8), settings)
    for i in range(3):
        whole.step(activations(256, 20, i))
    saved = copy.deepcopy(whole.state_dict())
    resumed = TrainStep(make_sae(20, 400, 8), settings)
    resumed.step(activations(256, 20, 50))  # a used one must be overwritten whole
    resumed.load_state_dict(saved)
    for i in range(3, 7):
        assert same_bits(whole.step(activations(256, 20, i)), resumed.step(activations(256, 20, i)))
    assert same_bits(whole.state_dict().values(), resumed.state_dict().values())


def test_a_state_of_another_shape_is_refused() -> None:
    step = TrainStep(make_sae(20, 40, 8), StepSettings(OPTIM, Objective(AuxK(16))))
    other = TrainStep(make_sae(20, 44, 8), StepSettings(OPTIM, Objective(AuxK(16))))
    before = step.sae.W_enc.detach().clone()
    with pytest.raises(TrainingError, match=r"has shape \[44"):
        step.load_state_dict(other.state_dict())
    with pytest.raises(TrainingError, match="lacks"):
        step.load_state_dict({"steps": 1})
    assert torch.equal(step.sae.W_enc, before)


def test_permuted_latents_train_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_select, "has_fast_bf16", lambda: False)  # bfloat16 scores tie, and ties go by index
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    plain, permuted = make_sae(16, 60, 4), make_sae(16, 60, 4)
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec"):
            permuted.get_parameter(name).copy_(plain.get_parameter(name)[order])
    steps = [TrainStep(sae, StepSettings(OPTIM, Objective(AuxK(16)))) for sae in (plain, permuted)]
    for i in range(3):
        results = [step.step(activations(128, 16, i)) for step in steps]
        assert results[0].main == pytest.approx(results[1].main, rel=1e-5)


def test_training_lowers_the_loss_and_reports_it() -> None:
    step = TrainStep(make_sae(16, 128, 6), StepSettings(OPTIM, Objective(AuxK(8))))
    results = [step.step(activations(512, 16, i)) for i in range(60)]
    assert results[-1].main < 0.6 * results[0].main
    assert results[0].l0 == pytest.approx(6, abs=0.2)
    assert len(results[0].fired) == len(results[0].fired_values) == round(512 * results[0].l0)
    assert float(results[0].fired_values.min()) > 0
    assert results[0].mse == pytest.approx(results[0].main, rel=0.2)  # E|x|^2 = d


def test_a_loss_that_is_not_finite_leaves_the_weights() -> None:
    step = TrainStep(make_sae(16, 50, 4), StepSettings(OPTIM, Objective(AuxK(8))))
    before = copy.deepcopy(step.state_dict())
    x = activations(30, 16, 0)
    x[3, 3] = math.nan
    with pytest.raises(TrainingError, match="step 0: the loss is nan"):
        step.step(x)
    assert same_bits(before.values(), step.state_dict().values())


def test_k_is_annealed_and_bf16_is_read() -> None:
    step = TrainStep(make_sae(16, 50, 4), StepSettings(OPTIM, Objective(AuxK(8)), k_start=16, k_steps=3))
    assert [step.step(activations(30, 16, i).bfloat16()).k for i in range(5)] == [16, 12, 8, 4, 4]


def test_constant_input_has_no_variance_to_divide_by() -> None:
    sae = make_sae(16, 50, 4, "layer")
    step = TrainStep(sae, StepSettings(OPTIM, Objective(AuxK(8))))
    with pytest.raises(TrainingError, match="the loss is"):
        step.step(torch.ones(10, 16) * torch.linspace(0, 1, 16) * math.inf)
