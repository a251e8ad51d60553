"""Logit lens and output scores against brute force on a random Llama."""

import pytest
import torch
from random_model import HOOK_POINT, D, N, random_llama, random_sae

from monosem.evaluate import outputs
from monosem.evaluate.outputs import lens, lens_matrix, output_scores, silent_tokens
from monosem.evaluate.replay import Replay
from monosem.lm.packed import Packed


def effect_by_hand(model, directions):
    head = model.embed if model.head is None else model.head
    effect = (directions * model.norm) @ head.T
    return effect - effect.mean(1, keepdim=True)


def test_the_lens_matrix_is_norm_times_unembedding():
    model = random_llama()
    by_hand = effect_by_hand(model, torch.eye(D))
    torch.testing.assert_close(lens_matrix(model), by_hand, rtol=1e-4, atol=1e-4)


def test_silent_tokens_are_special_or_unused():
    model = random_llama()
    assert silent_tokens(model).tolist() == list(range(model.tokenizer.vocab_size - 1, model.config.vocab_size))


def test_the_lens_names_the_tokens_a_direction_moves_most(monkeypatch):
    monkeypatch.setattr(outputs, "CHUNK_LATENTS", 5)
    model, directions = random_llama(), random_sae().W_dec.detach()
    found = lens(model, HOOK_POINT, directions)
    effect = effect_by_hand(model, directions)[:, : model.tokenizer.vocab_size - 1]
    order = effect.argsort(1, descending=True)
    assert torch.equal(found.raised, order[:, :20])
    assert torch.equal(found.lowered, order.flip(1)[:, :20])
    torch.testing.assert_close(found.raised_by, effect.gather(1, found.raised), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.lowered_by, effect.gather(1, found.lowered), rtol=1e-4, atol=1e-4)


def test_at_z_the_lens_goes_through_the_output_matrix():
    model, directions = random_llama(), random_sae().W_dec.detach()
    out = directions @ model.blocks[1].get_parameter("out").T
    assert torch.equal(lens(model, "1.z", directions).raised, lens(model, HOOK_POINT, out).raised)


@pytest.mark.parametrize("hook_point", [HOOK_POINT, "1.mlp_out"])
@pytest.mark.parametrize("normalisation", ["layer", "dataset", "none"])
def test_output_scores_match_a_loop(hook_point, normalisation, monkeypatch):
    monkeypatch.setattr(outputs, "CHUNK_LATENTS", 4)
    model, sae = random_llama(), random_sae(normalisation)
    latents = torch.tensor([0, 3, 7, 11, 20, N - 1])
    maxima = torch.linspace(0.5, 2, len(latents))
    raised = lens(model, hook_point, sae.W_dec.detach()[latents]).raised
    found = output_scores(Replay(model, hook_point), sae, latents, maxima, raised)
    packed = Packed.pack([model.tokenizer.encode(outputs.NEUTRAL_PROMPT)])
    x = model.activations(packed, [hook_point])[hook_point]
    for row, (latent, largest) in enumerate(zip(latents.tolist(), maxima.tolist(), strict=True)):
        codes = sae.encode(x)
        size = codes.std[-1] if codes.std is not None else 1
        edited = x.clone()
        edited[-1] += 10 * largest * sae.direction(latent) * size
        with model.hooks({hook_point: lambda _own, edited=edited: edited}):
            p = model.logits(packed)[-1].softmax(0)
        ranks = p.argsort(descending=True).argsort()
        tokens = raised[row]
        expected = (1 - ranks[tokens].min() / len(p)) * p[tokens].max()
        assert found[row].item() == pytest.approx(expected.item(), rel=1e-4)
    assert found.max() > 0.01


def test_no_latents_have_no_scores():
    none = torch.zeros(0, dtype=torch.int64)
    found = output_scores(Replay(random_llama(), HOOK_POINT), random_sae(), none, torch.zeros(0), none.view(0, 20))
    assert found.shape == (0,)
