"""The steering check: factors against a plain computation, seeds, controls of equal length, texts row by row."""

import math

import pytest
import torch
from random_model import HOOK_POINT, D, random_llama, random_sae, random_sentences

from monosem.evaluate import steering
from monosem.evaluate.outputs import lens
from monosem.evaluate.replay import Replay
from monosem.evaluate.steering import Candidate, compare, repetition, write
from monosem.lm.generate import Sampling, collect
from monosem.lm.packed import Packed
from monosem.sae.autoencoder import Normalisation
from monosem.steering import Edit, Steering

SENTENCES = random_sentences(30)


def candidates(model, sae, latents=(2, 9), maximum=3.0):
    raised = lens(model, HOOK_POINT, sae.W_dec.detach()[list(latents)]).raised.tolist()
    return [Candidate(latent, maximum, ids) for latent, ids in zip(latents, raised, strict=True)]


def check(seed=0, threshold=None, normalisation: Normalisation = "dataset", controls=6):
    model, sae = random_llama(), random_sae(normalisation, norm_threshold=threshold)
    chosen = candidates(model, sae)
    return compare(Replay(model, HOOK_POINT), sae, chosen, SENTENCES, controls=controls, seed=seed)


@pytest.mark.parametrize("normalisation", ["layer", "dataset", "none"])
def test_factors_are_ratios_of_probability_mass(normalisation):
    model, sae = random_llama(), random_sae(normalisation)
    found = check(normalisation=normalisation)
    prompts = [ids[:8] for ids in SENTENCES if len(ids) >= 8][:6]
    packed = Packed.pack(prompts)
    for outcome in found:
        tokens = torch.tensor(outcome.candidate.tokens)
        clean = model.logits(packed).softmax(1)[:, tokens].sum(1).mean()
        with model.hooks({HOOK_POINT: Steering(sae, [Edit(outcome.candidate.latent, 3.0)])}):
            steered = model.logits(packed).softmax(1)[:, tokens].sum(1).mean()
        assert outcome.effect.factor == pytest.approx((steered / clean).item(), rel=1e-4)
        assert outcome.effect.win == (outcome.effect.factor > max(outcome.effect.controls))


def test_the_seed_decides_the_controls_alone():
    first, again, other = check(1), check(1), check(2)
    assert [one.figures() for one in first] == [one.figures() for one in again]
    assert [one.effect.factor for one in first] == [one.effect.factor for one in other]
    assert [one.effect.controls for one in first] != [one.effect.controls for one in other]
    assert all(len(one.effect.controls) == 6 for one in first)


def test_controls_are_as_long_as_the_push(monkeypatch):
    seen = []
    factors = steering._Trial.factors
    monkeypatch.setattr(steering._Trial, "factors", lambda trial, *a: seen.append(a[0]) or factors(trial, *a))
    check()
    for pushes in seen:
        torch.testing.assert_close(pushes.norm(dim=1), pushes[0].norm().expand(len(pushes)))
        assert not torch.allclose(pushes[1], pushes[2])


def test_sinks_are_neither_steered_nor_counted():
    model, sae = random_llama(), random_sae()
    packed = Packed.pack([ids[:8] for ids in SENTENCES if len(ids) >= 8][:6])
    norms = model.activations(packed, [HOOK_POINT])[HOOK_POINT].norm(dim=1)
    threshold = norms.median().item()
    tokens = torch.tensor(candidates(model, sae)[0].tokens)
    kept = norms <= threshold
    clean = model.logits(packed).softmax(1)[kept][:, tokens].sum(1).mean()
    with model.hooks({HOOK_POINT: Steering(random_sae(norm_threshold=threshold), [Edit(2, 3.0)])}):
        steered = model.logits(packed).softmax(1)[kept][:, tokens].sum(1).mean()
    assert check(threshold=threshold)[0].effect.factor == pytest.approx((steered / clean).item(), rel=1e-4)


def test_each_row_of_the_batch_is_steered_by_its_own_push(monkeypatch):
    monkeypatch.setattr(steering, "NEW_TOKENS", 12)
    model, sae = random_llama(), random_sae()
    pushes = torch.stack([torch.zeros(D), 20 * sae.direction(2), 20 * sae.direction(9)])
    texts = write(Replay(model, HOOK_POINT), sae, pushes)
    assert len({text.samples[0] for text in texts}) == 3
    for text, push in zip(texts, pushes, strict=True):
        for start, sample in zip(steering.SAMPLE_PROMPTS, text.samples, strict=True):
            ids = model.tokenizer.encode(start)
            with model.hooks({HOOK_POINT: lambda x, push=push: x + push}):
                alone = collect(model.generate([ids], Sampling(max_new_tokens=12)), 1)[0]
            assert sample == model.tokenizer.decode(alone)


def test_perplexity_is_the_clean_models(monkeypatch):
    monkeypatch.setattr(steering, "NEW_TOKENS", 5)
    model, sae = random_llama(), random_sae()
    plain, steered = write(Replay(model, HOOK_POINT), sae, torch.stack([torch.zeros(D), 20 * sae.direction(2)]))
    losses = []
    for start, sample in zip(steering.SAMPLE_PROMPTS, steered.samples, strict=True):
        prompt, new = model.tokenizer.encode(start), model.tokenizer.encode(sample, special=True)
        log_p = model.logits(Packed.pack([prompt + new])).log_softmax(1)
        losses += [-log_p[len(prompt) + place - 1, token].item() for place, token in enumerate(new)]
    assert steered.perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)
    assert plain.perplexity < steered.perplexity


def test_repetition():
    assert repetition([[1, 2, 3, 4, 5]]) == 0
    assert repetition([[1, 1, 1, 1, 1]]) == pytest.approx(2 / 3)
    assert repetition([[1, 2, 3], [1, 2, 3]]) == 0
    assert repetition([[1, 2]]) == 0


def test_without_candidates_or_long_sentences():
    model, sae = random_llama(), random_sae()
    replay = Replay(model, HOOK_POINT)
    assert compare(replay, sae, [], SENTENCES, controls=2, seed=0) == []
    short = compare(replay, sae, candidates(model, sae), [[1, 2]], controls=2, seed=0)
    assert all(math.isfinite(one.effect.factor) for one in short)
