"""The fixed points of evaluation on the embedded language model, in its own number format."""

import pytest
import torch

from monosem.evaluate.downstream import Dropped, measure, recovered
from monosem.evaluate.reconstruction import constant, identity, through
from monosem.evaluate.reconstruction import measure as rebuild
from monosem.evaluate.replay import Replay
from monosem.lm.checkpoint import load_model
from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.sae.initialise import dataset_statistics
from monosem.store.pairs import Sample

pytestmark = pytest.mark.model
HOOK_POINT = "20.resid_post"


@pytest.fixture(scope="module")
def replay(embedded_model_path):
    return Replay(load_model(embedded_model_path, dtype="bfloat16", device="cpu"), HOOK_POINT)


@pytest.fixture(scope="module")
def sentences(replay, embedded_texts):
    return replay.model.tokenizer.encode_batch(embedded_texts[:24])


@pytest.fixture(scope="module")
def activations(replay, sentences):
    """Activations and the norm beyond which capture drops them."""
    x = replay.activations(replay.pack(sentences)).float()
    threshold = 10 * x.norm(dim=1).median().item()
    return x[x.norm(dim=1) <= threshold], threshold


def random_sae(x, order=None):
    sae = Autoencoder(
        SaeConfig(576, 1024, 16), torch.Generator().manual_seed(0), dataset_statistics(x.mean(0), x.var(0))
    )
    if order is not None:
        with torch.no_grad():
            for weight in (sae.W_enc, sae.b_enc, sae.W_dec):
                weight.copy_(weight[order].clone())
    return sae


def test_the_mean_has_fvu_one_and_permuted_latents_the_same(activations):
    x, _ = activations
    order = torch.randperm(1024, generator=torch.Generator().manual_seed(1))
    methods = {
        "mean": constant(x.double().mean(0).float()),
        "sae": through(random_sae(x)),
        "permuted": through(random_sae(x, order)),
    }
    found = rebuild((Sample(part, part) for part in x.split(200)), methods)
    assert found["mean"].fvu == pytest.approx(1, abs=1e-6)
    assert found["permuted"].fvu == pytest.approx(found["sae"].fvu, rel=1e-6)
    assert 0 < found["sae"].fvu < 1


@pytest.mark.parametrize("hook_point", [HOOK_POINT, "20.mlp_out"])
def test_identity_recovers_all_and_zero_nothing(replay, sentences, activations, hook_point):
    methods = {"identity": identity, "zero": constant(torch.zeros(576))}
    dropped = Dropped(activations[1], first=False)
    found = measure(Replay(replay.model, hook_point), sentences, methods, tuple(methods), dropped, 512)
    for scope in (found.default, found.all_tokens):
        assert recovered(scope["identity"].ce, scope["zero"].ce, found.ce_clean) == 1
        assert recovered(scope["zero"].ce, scope["zero"].ce, found.ce_clean) == 0
        assert scope["identity"].kl == 0
        assert scope["zero"].kl > 0
    assert 1 < found.ce_clean < 5


def test_going_on_from_the_hook_point_is_the_whole_model(replay, sentences):
    packed = replay.pack(sentences[:4])
    whole = replay.model.logits(packed)
    resumed = replay.logits(packed, replay.activations(packed))
    assert (resumed.argmax(1) == whole.argmax(1)).float().mean() > 0.95
    torch.testing.assert_close(resumed, whole, rtol=0.02, atol=0.3)  # bfloat16, products in other shapes
