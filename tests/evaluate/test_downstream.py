"""Downstream loss and KL through the real path: fixed points, a plain computation, scopes, every hook point."""

import math

import pytest
import torch
import torch.nn.functional as F
from random_model import HOOK_POINT, D, random_llama, random_sae, random_sentences

from monosem.errors import StoreError
from monosem.evaluate import downstream, replay
from monosem.evaluate.downstream import Dropped, measure, recovered
from monosem.evaluate.reconstruction import constant, identity, through
from monosem.evaluate.replay import Replay, packs
from monosem.lm.packed import Packed

KEEP_ALL = Dropped(math.inf, first=False)
SENTENCES = random_sentences(20)
RESUMED = ("0.resid_pre", "1.resid_post", "2.resid_post")
HOOKED = ("1.mlp_out", "1.attn_out", "1.z", "1.resid_mid", "1.resid_post.norm")


def methods(d=D):
    return {"identity": identity, "zero": constant(torch.zeros(d)), "mean": constant(torch.ones(d))}


def run(model, hook_point, dropped=KEEP_ALL, chosen=None, batch_tokens=64):
    chosen = chosen or methods()
    return measure(Replay(model, hook_point), SENTENCES, chosen, tuple(chosen), dropped, batch_tokens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hook_point", RESUMED + HOOKED)
def test_identity_recovers_all_and_ablation_nothing(hook_point, dtype):
    found = run(random_llama(dtype=dtype), hook_point)
    for scope in (found.default, found.all_tokens):
        identity_, zero = scope["identity"], scope["zero"]
        assert identity_ == (found.ce_clean, 0.0)
        assert recovered(identity_.ce, zero.ce, found.ce_clean) == 1
        assert recovered(zero.ce, zero.ce, found.ce_clean) == 0
        assert recovered(identity_.kl, zero.kl, 0.0) == 1
        assert zero.kl > 0.01


@pytest.mark.parametrize("hook_point", [HOOK_POINT, "1.mlp_out"])
def test_losses_match_a_plain_computation(hook_point, monkeypatch):
    monkeypatch.setattr(replay, "HEAD_ROWS", 7)  # several pieces a pack, the last one short
    monkeypatch.setattr(downstream, "HEAD_ROWS", 7)
    model, sae = random_llama(), random_sae()
    found = run(model, hook_point, chosen={"sae": through(sae), "zero": constant(torch.zeros(D))})
    ce = kl = clean_ce = 0.0
    for ids in SENTENCES:
        packed = Packed.pack([ids])
        x = model.activations(packed, [hook_point])[hook_point]
        clean = model.logits(packed)[:-1].double()
        with model.hooks({hook_point: lambda _own, x=x: sae(x).x_hat}):
            edited = model.logits(packed)[:-1].double()
        targets = torch.tensor(ids[1:])
        clean_ce += F.cross_entropy(clean, targets, reduction="sum").item() if len(ids) > 1 else 0
        ce += F.cross_entropy(edited, targets, reduction="sum").item() if len(ids) > 1 else 0
        kl += F.kl_div(edited.log_softmax(1), clean.log_softmax(1), log_target=True, reduction="sum").item()
    predictions = sum(len(ids) - 1 for ids in SENTENCES)
    assert found.predictions == predictions
    assert found.ce_clean == pytest.approx(clean_ce / predictions, rel=1e-5)
    assert found.default["sae"].ce == pytest.approx(ce / predictions, rel=1e-5)
    assert found.default["sae"].kl == pytest.approx(kl / predictions, rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_vector_everywhere_is_what_the_model_makes_of_it(value):
    model = random_llama()
    vector = torch.full((D,), value)
    found = run(model, HOOK_POINT, chosen={"constant": constant(vector)}).all_tokens["constant"]
    packed = Packed.pack([ids for ids in SENTENCES if len(ids) > 1])
    with model.hooks({HOOK_POINT: lambda own: vector.expand_as(own)}):
        log_q = model.logits(packed).log_softmax(1)
    rows = (packed.position[1:] > 0).nonzero().squeeze(1)
    ce = -log_q[rows, packed.ids[rows + 1]].mean().item()
    log_p = model.logits(packed).log_softmax(1)[rows]
    assert found.ce == pytest.approx(ce, rel=1e-5)
    assert found.kl == pytest.approx((log_p.exp() * (log_p - log_q[rows])).sum(1).mean().item(), rel=1e-4)


def test_the_batching_changes_little():
    whole, small = run(random_llama(), HOOK_POINT, batch_tokens=10_000), run(random_llama(), HOOK_POINT, batch_tokens=1)
    assert small.ce_clean == pytest.approx(whole.ce_clean, rel=1e-6)
    assert small.default["zero"] == pytest.approx(whole.default["zero"], rel=1e-5)


def test_dropped_vectors_pass_unedited_by_default_only():
    model = random_llama()
    everything_dropped = run(model, HOOK_POINT, Dropped(0.0, first=False))
    assert everything_dropped.default["zero"] == (everything_dropped.ce_clean, 0.0)
    assert everything_dropped.edited == 0
    assert everything_dropped.all_tokens == run(model, HOOK_POINT).all_tokens
    first = run(model, HOOK_POINT, Dropped(math.inf, first=True))
    assert first.edited == first.tokens - first.sentences
    assert first.default["zero"] != first.all_tokens["zero"]


def test_figures_over_all_tokens_count_every_vector():
    found = run(random_llama(), HOOK_POINT, Dropped(0.0, first=True))
    assert found.figures["identity"].rows == found.tokens
    assert found.figures["identity"].fvu == 0
    assert found.figures["zero"].fvu > 0


def test_sentences_of_one_token_predict_nothing():
    with pytest.raises(StoreError, match="two tokens"):
        measure(Replay(random_llama(), HOOK_POINT), [[1], [2]], methods(), (), KEEP_ALL, 64)
    found = run(random_llama(), HOOK_POINT)
    assert found.sentences == sum(len(ids) > 1 for ids in SENTENCES)


def test_recovered_is_undefined_where_ablation_does_nothing():
    assert math.isnan(recovered(1.0, 1.0, 1.0))


def test_packs_keep_order_and_size():
    found = list(packs(SENTENCES, 16))
    assert [ids for pack in found for ids in pack] == SENTENCES
    assert all(sum(map(len, pack)) <= 16 for pack in found)
    assert list(packs([[1] * 40, [2]], 16)) == [[[1] * 40], [[2]]]
