"""The written-out gradients against float64 autograd of each loss's plain definition, on what breaks them."""

from dataclasses import replace

import pytest
import torch
from plain_loss import BANDWIDTH, Case, Weights, plain_aux, plain_codes, plain_loss
from torch import Tensor

from monosem.kernels import Kernels, Workspace, cpu, reference
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.losses import AuxK
from monosem.sae.nested import Nested
from monosem.sae.objective import Batch, Further, Gradients, Objective, Term, gradients
from monosem.sae.penalties import Penalty
from monosem.sae.sparsity import make_sparsity


def ours(case: Case, sae: Autoencoder, x: Tensor, kernels: Kernels = cpu, further: Further | None = None) -> Gradients:
    z = x - sae.b_pre.detach()
    most = max(case.objective.nested.sizes) if case.objective.nested and case.objective.nested.by == "rank" else case.k
    sparsity = make_sparsity(case.sparsity, most, BANDWIDTH)
    target = z if sae.b_dec is None else case.target(x) - sae.b_dec.detach()
    batch = Batch(z, target, float((target - target.mean(0)).square().sum()), further=further)
    coefficient = case.objective.penalty.coefficient if case.objective.penalty else 0.0
    objective = replace(case.objective, exact=True)
    return gradients(sae, sparsity, objective, batch, case.dead_latents(), coefficient, kernels, Workspace())


def dense(g: Gradients, sae: Autoencoder) -> Weights:
    """All gradients as tensors."""
    w_dec = cpu.latent_gradient(g.values, g.values_by_latent, g.d_output, g.dec_extra, torch.empty_like(sae.W_dec))
    w_enc = cpu.latent_gradient(g.d_pre, g.inputs_by_latent(), g.z, g.enc_extra, torch.empty_like(sae.W_enc))
    if g.dec_norms is not None:
        w_dec += g.dec_norms[:, None] * sae.W_dec.detach() / sae.W_dec.detach().norm(dim=1, keepdim=True)
    if g.enc_outer is not None:
        w_enc += torch.outer(*g.enc_outer)
    return {"W_dec": w_dec.detach(), "W_enc": w_enc.detach(), **g.vectors}


def expected(case: Case, sae: Autoencoder, x: Tensor) -> tuple[float, Weights]:
    weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in sae.named_parameters()}
    loss = plain_loss(case, weights, x)
    aux = plain_aux(case, weights, x)
    found = torch.autograd.grad(loss + aux, list(weights.values()), allow_unused=True)
    named = dict(zip(weights, found, strict=True))
    return float((loss + aux).detach()), {
        name: torch.zeros_like(weights[name]) if gradient is None else gradient for name, gradient in named.items()
    }


AUX = AuxK(k_aux=8, coefficient=0.5, budget=1e9)
PLAIN = Objective(AUX)
L1, TANH = Penalty("l1", 0.7), Penalty("tanh", 0.7, scale=1.3)
L0 = Penalty("l0", 0.7, target=9.0)
MATRYOSHKA = Nested.matryoshka([7, 20], 60)
CASES = {
    "topk": Case("topk", PLAIN),
    "topk-auxk": Case("topk", PLAIN, dead=20),
    "topk-auxk-all-of-few-dead": Case("topk", PLAIN, dead=3),
    "topk-one": Case("topk", PLAIN, k=1, dead=20),
    "topk-every-latent": Case("topk", PLAIN, k=60),
    "topk-matryoshka": Case("topk", replace(PLAIN, nested=MATRYOSHKA), dead=20),
    "topk-multi": Case("topk", replace(PLAIN, nested=Nested.multi_topk(5, [20, 2], 1 / 8)), dead=20),
    "abstopk": Case("abstopk", PLAIN),
    "abstopk-auxk": Case("abstopk", PLAIN, dead=20),
    "abstopk-multi": Case("abstopk", replace(PLAIN, nested=Nested.multi_topk(5, [20], 1 / 8))),
    "batchtopk": Case("batchtopk", PLAIN),
    "batchtopk-auxk": Case("batchtopk", PLAIN, dead=20),
    "batchtopk-more-than-positive": Case("batchtopk", PLAIN, k=55),
    "batchtopk-matryoshka": Case("batchtopk", replace(PLAIN, nested=MATRYOSHKA), dead=20),
    "relu-l1": Case("relu", replace(PLAIN, penalty=L1), dead=20),
    "relu-l1-free": Case("relu", replace(PLAIN, penalty=L1, free_norms=True), dead=20),
    "relu-matryoshka": Case("relu", replace(PLAIN, penalty=L1, nested=MATRYOSHKA)),
    "jumprelu-l0": Case("jumprelu", replace(PLAIN, penalty=L0), dead=20),
    "jumprelu-l1": Case("jumprelu", replace(PLAIN, penalty=L1)),
    "jumprelu-tanh": Case("jumprelu", replace(PLAIN, penalty=TANH)),
    "jumprelu-tanh-free": Case("jumprelu", replace(PLAIN, penalty=TANH, free_norms=True)),
    "jumprelu-silent": Case("jumprelu", replace(PLAIN, penalty=replace(TANH, silent=0.3))),
    "jumprelu-silent-free": Case("jumprelu", replace(PLAIN, penalty=replace(TANH, silent=0.3), free_norms=True)),
    "jumprelu-matryoshka": Case("jumprelu", replace(PLAIN, penalty=L0, nested=MATRYOSHKA)),
}

CASES |= {
    f"{name}-{kind}": replace(case, d_out=9, skip=kind == "skip")
    for name, case in CASES.items()
    for kind in ("transcoder", "skip")
}


def check(case: Case, sae: Autoencoder, x: Tensor, kernels: Kernels = cpu) -> Gradients:
    loss, plain = expected(case, sae, x)
    g = ours(case, sae, x, kernels)
    total = g.losses.nested + case.objective.aux.coefficient * g.losses.aux + g.losses.penalty
    assert total == pytest.approx(loss, rel=1e-9)
    for name, gradient in dense(g, sae).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-9, atol=1e-12, msg=name)
    return g


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_gradients_equal_float64_autograd(name: str, seed: int) -> None:
    case = CASES[name]
    check(case, case.sae(seed), case.x(seed + 1))


@pytest.mark.parametrize(
    "name", ["topk-auxk", "batchtopk-auxk", "abstopk-auxk", "relu-l1", "jumprelu-l0", "topk-auxk-skip"]
)
def test_auxk_reaches_the_encoder(name: str) -> None:
    case = CASES[name]
    sae, x = case.sae(), case.x()
    sae.b_enc.data[case.dead_latents()] = -0.1  # barely silent
    silent = replace(case, dead=0)
    with_aux, without = dense(ours(case, sae, x), sae), dense(ours(silent, sae, x), sae)
    for matrix in ("W_enc", "W_dec"):
        change = (with_aux[matrix] - without[matrix]).norm(dim=1)
        assert float(change[case.dead_latents()].max()) > 1e-6
        others = torch.ones(case.n, dtype=torch.bool)
        others[case.dead_latents()] = False
        assert float(change[others].max()) == 0


@pytest.mark.parametrize("name", CASES)
def test_dead_rows_and_empty_codes(name: str) -> None:
    """Latents that never fire, vectors without a positive pre-activation, and a batch with none at all."""
    case = CASES[name]
    sae, x = case.sae(), case.x()
    far = -50 - torch.arange(case.n) / case.n  # no two alike, for those that go by magnitude
    sae.b_enc.data[::2] = far[::2]
    x[3:9] = sae.b_pre.detach()  # z = 0: only the bias speaks
    sae.b_enc.data[1::2] = -sae.b_enc.data[1::2].abs() - 0.01
    check(case, sae, x)
    sae.b_enc.data[:] = far
    if case.sparsity != "abstopk":
        assert len(check(case, sae, x).fired) == 0


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kernels", [cpu, reference])
def test_a_term_measured_elsewhere(name: str, kernels: Kernels) -> None:
    """Any function of the SAE's own reconstruction: here the sum of its sines."""
    case = CASES[name]
    sae, x = case.sae(), case.x()
    told = []

    target = case.target(x)

    def further(error: Tensor, main: float) -> Term:
        told.append(main)
        return Term(float((target + error).sin().sum()), (target + error).cos())

    weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in sae.named_parameters()}
    pre = (x - weights["b_pre"]) @ weights["W_enc"].T + weights["b_enc"]
    h, _ = plain_codes(case, weights, pre, case.k)
    term = (h @ weights["W_dec"] + case.past_codes(weights, x)).sin().sum()
    plain = dict(zip(weights, torch.autograd.grad(term, list(weights.values())), strict=True))
    g, without = ours(case, sae, x, kernels, further), ours(case, sae, x, kernels)
    assert g.losses.further == pytest.approx(float(term.detach()), rel=1e-9)
    assert g.losses._replace(further=0.0) == without.losses
    assert told == [without.losses.main]
    before = dense(without, sae)
    for weight, gradient in dense(g, sae).items():
        torch.testing.assert_close(gradient - before[weight], plain[weight], rtol=1e-7, atol=1e-10, msg=weight)


@pytest.mark.parametrize("name", ["topk", "abstopk", "batchtopk", "jumprelu-l0", "relu-l1"])
def test_ties(name: str) -> None:
    """Latents that are copies of each other tie everywhere: any of the equals may be taken, and k are taken."""
    case = replace(CASES[name], dead=0)
    sae, x = case.sae(), case.x()
    for parameter in (sae.W_enc, sae.b_enc, sae.W_dec, *([] if sae.log_threshold is None else [sae.log_threshold])):
        parameter.data[30:] = parameter.data[:30]
    loss, plain = expected(case, sae, x)
    g = ours(case, sae, x)
    assert g.losses.nested + g.losses.penalty == pytest.approx(loss, rel=1e-9)
    if case.sparsity == "topk":
        assert g.pattern.offsets.diff().tolist() == [case.k] * case.batch
    if case.sparsity == "batchtopk":
        assert len(g.fired) == case.k * case.batch
    for matrix in ("W_enc", "W_dec", "b_enc"):  # which of two copies was taken is not said: their sum is
        found = dense(g, sae)[matrix]
        torch.testing.assert_close(
            found[:30] + found[30:], plain[matrix][:30] + plain[matrix][30:], rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("sparsity", ["topk", "batchtopk", "relu", "jumprelu"])
def test_l0_above_a_thousand(sparsity: str) -> None:
    penalty = {"relu": L1, "jumprelu": replace(L0, target=500)}.get(sparsity)
    case = Case(sparsity, Objective(AUX, penalty), d=16, n=3000, k=1200, batch=8)
    sae = case.sae()
    if sae.log_threshold is not None:
        sae.log_threshold.data -= 3
    g = check(case, sae, case.x())
    assert len(g.fired) / case.batch > 1000


@pytest.mark.parametrize("name", CASES)
def test_the_twin_kernels_give_the_same_gradients(name: str) -> None:
    case = CASES[name]
    sae, x = case.sae(), case.x()
    check(case, sae, x, reference)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.sparsity.startswith("jump")])
def test_gradcheck(name: str) -> None:
    """Finite differences of our own loss; the straight-through estimator is no derivative, and stays out."""
    case = replace(CASES[name], dead=0, batch=6, d=5)
    sae, x = case.sae(), case.x()
    names = [name for name, _ in sae.named_parameters()]

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *weights: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            for name, weight in zip(names, weights, strict=True):
                sae.get_parameter(name).data.copy_(weight)
            g = ours(case, sae, x)
            ctx.found = dense(g, sae)
            return x.new_tensor(g.losses.nested + g.losses.penalty)

        @staticmethod
        def backward(ctx, d_loss: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
            return tuple(d_loss * ctx.found[name] for name in names)

    inputs = tuple(parameter.detach().clone().requires_grad_() for parameter in sae.parameters())
    assert torch.autograd.gradcheck(
        lambda *weights: Loss.apply(*weights), inputs, eps=1e-7, atol=1e-6, rtol=1e-4, fast_mode=True
    )
