"""Fine-tuning on the embedded model: held-out predictions suffer less, and the tail is the model's own."""

import pytest
import torch
from torch import Tensor

from monosem.evaluate import downstream, reconstruction
from monosem.evaluate.replay import Replay
from monosem.finetune.step import FinetuneStep
from monosem.lm.checkpoint import load_model
from monosem.lm.llama import Llama
from monosem.lm.packed import Packed
from monosem.lm.tail import Tail
from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.sae.initialise import dataset_statistics
from monosem.sae.losses import AuxK
from monosem.sae.objective import Objective
from monosem.train.optim import OptimSettings
from monosem.train.step import StepSettings, TrainStep

HOOK_POINT = "26.resid_post"
OPTIM = OptimSettings(lr=1e-3, schedule="constant", betas=(0.9, 0.99), eps=1e-8)


@pytest.fixture(scope="module")
def model(embedded_model_path) -> Llama:
    return load_model(embedded_model_path, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def sentences(model: Llama, embedded_texts: list[str]) -> list[list[int]]:
    return [ids[:32] for ids in model.tokenizer.encode_batch(embedded_texts[::97][:130]) if len(ids) > 1]


def activations(model: Llama, sentences: list[list[int]]) -> Tensor:
    return model.activations(Packed.pack(sentences), [HOOK_POINT])[HOOK_POINT]


@pytest.mark.model
def test_the_tail_ends_where_a_resumed_pass_does(model: Llama, sentences: list[list[int]]) -> None:
    packed = Packed.pack(sentences[:8])
    x = activations(model, sentences[:8])
    x_hat = x + 0.1 * x.std() * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    expected = model.resume(HOOK_POINT, x_hat, packed)
    found = model.unembed(Tail(model, HOOK_POINT, packed).forward(x_hat)[-1])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.model
@pytest.mark.slow
def test_a_few_steps_lower_the_kl_of_held_out_sentences(model: Llama, sentences: list[list[int]]) -> None:
    held_out, training = sentences[:12], sentences[12:]
    x = activations(model, training)
    norms = x.norm(dim=1)
    threshold = float(10 * norms.median())
    x = x[norms < threshold]
    config = SaeConfig(x.shape[1], 512, 24, normalisation="dataset", hook_point=HOOK_POINT, norm_threshold=threshold)
    statistics = dataset_statistics(x.double().mean(0), x.double().var(0))
    sae = Autoencoder(config, torch.Generator().manual_seed(0), statistics, encoder_norm=0.3)
    step = TrainStep(sae, StepSettings(OPTIM, Objective(AuxK(64))))
    for batch in range(80):
        step.step(x[(torch.arange(256) * 7 + 101 * batch) % len(x)])

    def measured() -> tuple[float, float]:
        methods = {"sae": reconstruction.through(sae)}
        dropped = downstream.Dropped(threshold, first=False)
        found = downstream.measure(Replay(model, HOOK_POINT), held_out, methods, ["sae"], dropped, 1024)
        return found.default["sae"].kl, found.default["sae"].ce - found.ce_clean

    kl, gap = measured()
    tuning = FinetuneStep(model, HOOK_POINT, TrainStep(sae, StepSettings(OPTIM, Objective(AuxK(64)))))
    for number in range(16):
        tuning.step(training[number * 7 : number * 7 + 7])
    kl_after, gap_after = measured()
    assert kl_after < 0.95 * kl
    assert gap_after < gap
