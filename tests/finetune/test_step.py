"""Steps of fine-tuning on a small random model: what they do to the predictions and to the reconstruction."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from random_model import D, K, N, random_llama, random_sentences
from torch import Tensor

from monosem.evaluate import downstream, reconstruction
from monosem.evaluate.replay import Replay
from monosem.finetune.step import FinetuneResult, FinetuneStep
from monosem.lm.llama import Llama
from monosem.lm.packed import Packed
from monosem.sae.autoencoder import Autoencoder, Normalisation, SaeConfig
from monosem.sae.initialise import dataset_statistics
from monosem.sae.losses import AuxK
from monosem.sae.objective import Further, Objective
from monosem.sae.penalties import Penalty
from monosem.train.optim import OptimSettings
from monosem.train.step import StepResult, StepSettings, TrainStep

HOOK_POINT = "0.resid_post"
OPTIM = OptimSettings(lr=2e-3, schedule="constant", betas=(0.9, 0.99), eps=1e-8, threshold_rate=5.0)
PENALTIES = {"jumprelu": Penalty("l0", 1.0, target=2 * K), "relu": Penalty("l1", 1.0)}


def sentences(seed: int, count: int = 60) -> list[list[int]]:
    return [ids for ids in random_sentences(count, seed) if len(ids) > 1]


def settings(sparsity: str) -> StepSettings:
    return StepSettings(OPTIM, Objective(AuxK(8), PENALTIES.get(sparsity), exact=True))


def trained(
    model: Llama,
    sparsity: str = "topk",
    normalisation: Normalisation = "dataset",
    norm_threshold: float | None = None,
    steps: int = 600,
) -> Autoencoder:
    """An SAE after training on the squared error alone."""
    x = torch.cat([activations(model, sentences(seed)) for seed in range(10)])
    statistics = dataset_statistics(x.mean(0), x.var(0)) if normalisation == "dataset" else None
    config = SaeConfig(D, N, K, sparsity, normalisation, hook_point=HOOK_POINT, norm_threshold=norm_threshold)
    sae = Autoencoder(config, torch.Generator().manual_seed(0), statistics, encoder_norm=0.5)
    step = TrainStep(sae, settings(sparsity))
    for batch in range(steps):
        step.step(x[(torch.arange(256) * 7 + 13 * batch) % len(x)])
    return sae


def activations(model: Llama, ids: Sequence[Sequence[int]]) -> Tensor:
    return model.activations(Packed.pack(ids), [HOOK_POINT])[HOOK_POINT]


def fine_tuned(model: Llama, sae: Autoencoder, steps: int = 40, alpha: float = 1.0) -> list[FinetuneResult]:
    training = TrainStep(sae, replace(settings(sae.config.sparsity), optim=replace(OPTIM, lr=1e-3)))
    step = FinetuneStep(model, HOOK_POINT, training, alpha)
    return [step.step(sentences(100 + number)) for number in range(steps)]


def held_out(model: Llama, sae: Autoencoder) -> tuple[float, float]:
    """KL and FVU on other sentences, as `evaluate` measures them."""
    dropped = downstream.Dropped(sae.config.norm_threshold, first=False)
    methods = {"sae": reconstruction.through(sae)}
    found = downstream.measure(Replay(model, HOOK_POINT), sentences(999, 300), methods, ["sae"], dropped, 512)
    return found.default["sae"].kl, found.figures["sae"].fvu


@pytest.mark.parametrize("sparsity", ["topk", "abstopk", "batchtopk", "jumprelu", "relu"])
def test_predictions_suffer_less_and_the_reconstruction_little_more(sparsity: str) -> None:
    model = random_llama()
    sae = trained(model, sparsity)
    plain = copy.deepcopy(sae)
    kl, fvu = held_out(model, sae)
    results = fine_tuned(model, sae)
    fine_tuned(model, plain, alpha=0)
    kl_after, fvu_after = held_out(model, sae)
    assert kl_after < 0.97 * kl
    assert kl_after < 0.98 * held_out(model, plain)[0]  # as many steps without the KL do not have this effect
    assert fvu_after < 1.1 * fvu
    torch.testing.assert_close(sae.W_dec.detach().norm(dim=1), torch.ones(N))
    first = results[0]
    assert first.kl * first.weight == pytest.approx(first.training.main, rel=1e-6)  # as large as each other
    assert first.training.loss == pytest.approx(2 * first.training.main + first.training.penalty, rel=1e-6)


class Recorded(TrainStep):
    """Keeps the term that it is given."""

    further: Further | None = None

    def step_normalised(self, z: Tensor, target: Tensor | None = None, further: Further | None = None) -> StepResult:
        self.further = further
        return super().step_normalised(z, target, further)


@pytest.mark.parametrize("normalisation", ["dataset", "layer", "none"])
def test_the_gradient_passes_through_the_normalisation(normalisation: Normalisation) -> None:
    """Against finite differences of the KL in the error of the reconstruction, in normalised units."""
    model = random_llama()
    sae, ids = trained(model, normalisation=normalisation, steps=50), sentences(5)
    training = Recorded(sae, settings("topk"))
    FinetuneStep(model, HOOK_POINT, training, alpha=2).step(ids)
    x = activations(model, ids)
    unit = {"dataset": 1 / sae.scale, "layer": x.std(1, keepdim=True), "none": torch.ones(())}[normalisation]

    def kl(error: Tensor) -> float:
        return model.kl_gradient(HOOK_POINT, x, x + error * unit, Packed.pack(ids)).kl

    assert training.further is not None
    error = 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    term = training.further(error, 0.25)
    assert term.loss == pytest.approx(2 * 0.25, rel=1e-6)
    weight = 2 * 0.25 / kl(error)
    direction = term.gradient / term.gradient.norm()
    difference = (kl(error + 0.02 * direction) - kl(error - 0.02 * direction)) / 0.04
    assert float(term.gradient.norm()) / weight == pytest.approx(difference, rel=0.01)


def test_sinks_pass_unedited() -> None:
    """Where the SAE was not trained, nothing is replaced, and no gradient comes from there."""
    model = random_llama()
    x = activations(model, sentences(7))
    middle = float(x.norm(dim=1).median())
    sae = trained(model, norm_threshold=middle, steps=50)
    seen: list[Tensor] = []
    step = FinetuneStep(model, HOOK_POINT, TrainStep(sae, settings("topk")))
    kl_gradient = model.kl_gradient

    def watched(hook_point: str, x: Tensor, x_hat: Tensor, packed: Packed):
        seen.extend((x, x_hat))
        return kl_gradient(hook_point, x, x_hat, packed)

    model.kl_gradient = watched
    result = step.step(sentences(7))
    above = seen[0].norm(dim=1) > middle
    assert torch.equal(seen[0][above], seen[1][above])
    assert not (seen[0][~above] == seen[1][~above]).all(1).any()
    assert len(result.training.fired) <= K * int((~above).sum())


def test_the_reconstruction_spliced_in_is_the_saes_own() -> None:
    model = random_llama()
    for normalisation in ("dataset", "layer", "none"):
        sae = trained(model, normalisation=normalisation, steps=50)
        x = activations(model, sentences(7))
        expected = model.kl_gradient(HOOK_POINT, x, sae(x).x_hat, Packed.pack(sentences(7))).kl
        step = FinetuneStep(model, HOOK_POINT, TrainStep(sae, settings("topk")))
        assert step.step(sentences(7)).kl == pytest.approx(expected, rel=1e-3)


def test_first_tokens_that_training_left_out() -> None:
    model = random_llama()
    sae = trained(model, steps=50)
    step = FinetuneStep(model, HOOK_POINT, TrainStep(sae, settings("topk")), drop_first=True)
    ids = sentences(7)
    assert len(step.step(ids).training.fired) <= K * (sum(map(len, ids)) - len(ids))
