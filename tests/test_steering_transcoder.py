"""A transcoder steers where it writes, by what it read: in a pass, in a generation, and when it is fine-tuned."""

import pytest
import torch
from random_model import OUTPUT, SOURCE, D, random_llama, random_sentences, random_transcoder

from monosem.completion.hook import RowHook
from monosem.errors import ModelError, SaeError
from monosem.evaluate.downstream import Dropped, measure
from monosem.evaluate.reconstruction import constant, identity, through
from monosem.evaluate.replay import Replay
from monosem.finetune.step import FinetuneStep
from monosem.lm.packed import Packed
from monosem.recipe import Recipe
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.initialise import dataset_statistics
from monosem.sae.losses import AuxK
from monosem.sae.objective import Objective
from monosem.steering import Edit, Steering, steer
from monosem.train.optim import OptimSettings
from monosem.train.step import StepSettings, TrainStep

SENTENCES = [ids for ids in random_sentences(40) if len(ids) > 1]
RECIPE = Recipe.model_validate(
    {"capture": {"hook_points": [SOURCE, OUTPUT]}, "train": {"target_hook_point": OUTPUT}, "sae": {"skip": True}}
)
Found = dict[str, torch.Tensor]


def found(model, hooks=None) -> Found:
    with model.hooks(hooks or {}):
        return model.activations(Packed.pack(SENTENCES), [SOURCE, OUTPUT, "1.resid_post"])


@pytest.mark.parametrize("mode", ["add", "clamp", "scale", "ablate"])
@pytest.mark.parametrize("skip", [False, True])
def test_an_edit_adds_its_row_where_the_transcoder_writes(mode, skip):
    model, sae = random_llama(), random_transcoder(skip=skip)
    clean = found(model)
    codes = sae.encode(clean[SOURCE]).dense()
    latent = int(codes.sum(0).argmax())
    change = {"add": 3 + 0 * codes[:, latent], "clamp": 3 - codes[:, latent], "scale": 2 * codes[:, latent]}
    change["ablate"] = -codes[:, latent]
    expected = clean[OUTPUT] + change[mode][:, None] * sae.W_dec[latent].detach() / 2.0
    steering = Steering(sae, [Edit(latent, 3.0, mode)])
    edited = found(model, steering.hooks())
    torch.testing.assert_close(edited[OUTPUT], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(edited[SOURCE], clean[SOURCE])
    assert not torch.allclose(edited["1.resid_post"], clean["1.resid_post"], atol=1e-2)
    with steer(model, sae, [Edit(latent, 3.0, mode)]):
        assert torch.equal(found(model)[OUTPUT], edited[OUTPUT])


def test_without_an_edit_replacing_gives_the_transcoder_s_output():
    model, sae = random_llama(), random_transcoder()
    clean = found(model)
    edited = found(model, Steering(sae, [], error_preserving=False).hooks())
    torch.testing.assert_close(edited[OUTPUT], sae(clean[SOURCE]).x_hat, rtol=1e-4, atol=1e-4)


def test_sinks_pass_unedited():
    model = random_llama()
    norms = found(model)[OUTPUT].norm(dim=1)
    sae = random_transcoder(norm_threshold=float(norms.median()))
    clean, edited = found(model)[OUTPUT], found(model, Steering(sae, [Edit(2, 5.0)]).hooks())[OUTPUT]
    assert torch.equal((edited != clean).any(1), norms <= norms.median())


def test_what_cannot_be_steered_is_refused():
    sae = random_transcoder()
    steering = Steering(sae, [Edit(1, 2.0)])
    with pytest.raises(SaeError, match="steered by what it reads"):
        steering(torch.zeros(2, D))
    with pytest.raises(ModelError, match=r"0\.mlp_out comes before 1\.resid_mid\.norm"):
        steering.hooks("0.mlp_out")
    with pytest.raises(ModelError, match="comes before"):
        Replay(random_llama(), SOURCE, OUTPUT)


def test_rows_of_a_generation_are_read_at_one_place_and_edited_at_another():
    model, sae = random_llama(), random_transcoder()
    steering = Steering(sae, [Edit(3, 6.0, "clamp")])
    hook = RowHook(sae, steering, [False, True], most=2)
    assert set(hook.hooks(RECIPE)) == {SOURCE, OUTPUT}
    ids = [SENTENCES[0], SENTENCES[0]]
    hook.begin(ids)
    with model.hooks(hook.hooks(RECIPE)):
        written = model.activations(Packed.pack(ids), [OUTPUT])[OUTPUT]
    with model.hooks(steering.hooks()):
        steered = model.activations(Packed.pack(ids), [OUTPUT])[OUTPUT]
    half = len(SENTENCES[0])
    assert torch.equal(written[half:], steered[half:])
    assert not torch.equal(written[:half], steered[:half])
    assert RowHook(sae, None, [False], most=0).hooks(RECIPE) == {}


def test_its_output_takes_the_target_s_place_and_its_source_decides_it():
    model, sae = random_llama(), random_transcoder()
    methods = {"sae": through(sae), "identity": identity, "zero": constant(torch.zeros(D))}
    replay = Replay(model, OUTPUT, SOURCE)
    scope = measure(replay, SENTENCES, methods, ["sae"], Dropped.of(sae.config, first=False), 256)
    assert scope.default["identity"].kl == pytest.approx(0, abs=1e-6)
    packed = Packed.pack(SENTENCES)
    clean = found(model)
    by_hand = replay.logits(packed, sae(clean[SOURCE]).x_hat).log_softmax(1)
    rows = (packed.position[1:] > 0).nonzero().squeeze(1)
    p = replay.logits(packed, clean[OUTPUT]).log_softmax(1)[rows]
    kl = (p.exp() * (p - by_hand[rows])).sum(1).mean()
    assert scope.default["sae"].kl == pytest.approx(float(kl), rel=1e-4)


def test_fine_tuning_lowers_the_divergence_it_causes():
    model = random_llama()
    clean = found(model)
    own, target = (dataset_statistics(clean[name].mean(0), clean[name].var(0)) for name in (SOURCE, OUTPUT))
    sae = Autoencoder(random_transcoder().config, torch.Generator().manual_seed(0), own, target=target)
    optim = OptimSettings(lr=1e-2, schedule="constant", betas=(0.9, 0.99), eps=1e-8)
    step = FinetuneStep(model, SOURCE, TrainStep(sae, StepSettings(optim, Objective(AuxK(8)))), 1.0, False, OUTPUT)
    results = [step.step([ids for ids in random_sentences(60, seed) if len(ids) > 1]) for seed in range(60)]
    assert results[-1].kl < 0.7 * results[0].kl
    assert results[-1].training.main < 0.8 * results[0].training.main
    assert results[0].training.loss == pytest.approx(2 * results[0].training.main, rel=1e-6)
