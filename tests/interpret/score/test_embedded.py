"""The scores that ask the language model, on the embedded one."""

import pytest
import torch
import torch.nn.functional as F

from monosem.evaluate.replay import Replay
from monosem.interpret.score import intervention
from monosem.interpret.score.likelihood import Reader
from monosem.interpret.score.n2g_ablated import Peak, Prober, patterns
from monosem.lm.packed import Packed
from monosem.lm.protocol import LanguageModel
from monosem.lm.source import open_model
from monosem.recipe import ModelRecipe
from monosem.sae.autoencoder import Autoencoder, SaeConfig

HOOK_POINT = "20.resid_post"
pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return open_model(ModelRecipe())


@pytest.fixture(scope="module")
def sae(model: LanguageModel) -> Autoencoder:
    """Latent 0 is the direction of " treaty" in its sentence; the others are random."""
    generator = torch.Generator().manual_seed(0)
    found = Autoencoder(SaeConfig(576, 64, 1, normalisation="none", norm_threshold=2400.0), generator)
    text = model.tokenizer.encode("They signed the treaty")
    x = model.activations(Packed.pack([text]), [HOOK_POINT])[HOOK_POINT].float()
    with torch.no_grad():
        found.W_enc[0] = found.W_dec[0] = F.normalize(x[-1] - x[1:-1].mean(0), dim=0)
    return found


def test_a_word_is_cut_out_of_its_sentence(model, sae):
    prober = Prober(Replay(model, HOOK_POINT), sae, batch_tokens=512)
    ids = tuple(model.tokenizer.encode("In the spring of that year they signed the treaty"))
    (value,) = prober.values([ids], [0])
    assert value > 0
    assert prober.values([ids[:1]], [0]) == [0.0], "the first token is an attention sink"
    found = patterns(prober, [Peak(0, ids, value)], model.tokenizer.encode(" ")[0])
    (pattern,) = found.patterns[0]
    assert model.tokenizer.decode([token for token in pattern.tokens if token is not None]).endswith(" treaty")
    assert len(pattern.tokens) <= 3


def test_a_text_is_likelier_behind_what_it_is_about(model):
    reader = Reader(model, batch_tokens=512)
    fits, other = reader.log_probabilities(
        [("The capital of France is", "Paris"), ("My favourite kind of fruit is the", "Paris")]
    )
    assert fits > other + 3


def test_steering_moves_predictions_by_the_same_divergence(model, sae):
    replay = Replay(model, HOOK_POINT)
    directions = F.normalize(sae.W_dec.detach()[:3])
    strengths = intervention.equal_kl(replay, sae, directions)
    found = intervention._Trial(replay, sae).kl(strengths[:, None] * directions)
    assert found.tolist() == pytest.approx([intervention.KL] * 3, rel=0.1)
