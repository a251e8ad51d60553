"""Completion over a run folder: plain text, steering, events in order, latents by token, and what is refused."""

import json

import pytest
import torch
import torch.nn.functional as F
from random_model import HOOK_POINT, N, random_llama, random_sae
from small_run import MAXIMUM

from monosem.completion import Began, Completer, Ended, Prompt, Read, Wrote, completer
from monosem.errors import ModelError, RunError, SaeError
from monosem.lm.generate import Sampling, collect
from monosem.lm.packed import Packed
from monosem.recipe import Recipe
from monosem.run import Run
from monosem.sae import files
from monosem.steering import Edit, Steering, load_sae

SAMPLING = Sampling(max_new_tokens=6)
WARM = Sampling(max_new_tokens=12, temperature=1.0, top_p=0.9)
PROMPTS = ("Hello", "A b c")


def ids_of(model, prompt, hooks=None, sampling=SAMPLING):
    with model.hooks(hooks or {}):
        return collect(model.generate([model.tokenizer.encode(prompt)], sampling), 1)[0]


def written(model, prompt, hooks=None):
    return model.tokenizer.decode(ids_of(model, prompt, hooks))


def test_without_edits_it_is_the_model_itself(run):
    model = random_llama()
    found = Completer(run, model).complete(PROMPTS, sampling=SAMPLING)
    assert [one.prompt for one in found] == list(PROMPTS)
    assert [one.text for one in found] == [written(model, prompt) for prompt in PROMPTS]
    assert [[token.id for token in one.tokens] for one in found] == [ids_of(model, prompt) for prompt in PROMPTS]
    assert not any(token.latents for one in found for token in one.tokens)


@pytest.mark.parametrize("error_preserving", [True, False])
def test_edits_steer_every_prompt(run, error_preserving):
    model = random_llama()
    edits = [Edit(3, 10.0, unit="max")]
    found = Completer(run, model).complete(PROMPTS, edits, SAMPLING, error_preserving=error_preserving)
    hook = Steering(random_sae(), [Edit(3, 20.0)], error_preserving=error_preserving)
    assert [one.text for one in found] == [written(model, prompt, {HOOK_POINT: hook}) for prompt in PROMPTS]
    assert [one.text for one in found] != [written(model, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("mode", ["add", "clamp", "scale"])
@pytest.mark.parametrize("error_preserving", [True, False])
def test_steered_text_is_that_of_whole_passes_without_a_cache(run, mode, error_preserving):
    model, edits = random_llama(), [Edit(3, 8.0, mode), Edit(9, 2.0, mode)]
    found = Completer(run, model).complete(
        PROMPTS, edits, SAMPLING, error_preserving=error_preserving, show_latents=2, compare=True
    )
    hook = Steering(random_sae(), edits, error_preserving=error_preserving)
    for one in found[1::2]:
        ids = model.tokenizer.encode(one.prompt)
        for token in one.tokens:
            with model.hooks({HOOK_POINT: hook}):
                ids.append(int(model.logits(Packed.pack([ids]))[-1].argmax()))
            assert token.id == ids[-1]


@pytest.mark.parametrize("error_preserving", [True, False])
def test_a_comparison_is_the_plain_and_the_steered_text_of_one_seed(run, error_preserving):
    complete = Completer(run, random_llama()).complete
    edits = [Edit(3, 20.0), Edit(5, 1.0, "clamp")]
    both = complete(PROMPTS, edits, WARM, error_preserving=error_preserving, compare=True, show_latents=2)
    assert [(one.prompt, one.steered) for one in both] == [(p, steered) for p in PROMPTS for steered in (False, True)]
    assert [one.text for one in both[::2]] == [one.text for one in complete(PROMPTS, (), WARM)]
    steered = complete(PROMPTS, edits, WARM, error_preserving=error_preserving)
    assert [one.text for one in both[1::2]] == [one.text for one in steered]
    assert both[0].text != both[1].text


def test_a_text_depends_on_its_prompt_and_seed_alone(run, monkeypatch):
    complete = Completer(run, random_llama()).complete
    prompts = ["Hello", "A b c", "x", "Hello there", "Hello"]
    together = [one.text for one in complete(prompts, (), WARM)]
    assert together == [complete([prompt], (), WARM)[0].text for prompt in prompts]
    monkeypatch.setattr(completer, "BATCH", 2)
    assert together == [one.text for one in complete(prompts, (), WARM)]
    several = complete(["x", "Hello"], (), WARM, samples=3)
    assert [one.seed for one in several] == [0, 1, 2, 0, 1, 2]
    assert several[3].text == together[0]
    assert len({one.text for one in several}) == 6


@pytest.mark.parametrize("edits", [(), (Edit(3, 20.0),)])
def test_latents_are_those_that_the_clean_model_sees_in_the_text(run, edits):
    model, sae = random_llama(), random_sae()
    for found in Completer(run, model).complete(PROMPTS, edits, SAMPLING, show_latents=3):
        prompt, new = model.tokenizer.encode(found.prompt), [one.id for one in found.tokens]
        assert len(new) == SAMPLING.max_new_tokens
        x = model.activations(Packed.pack([prompt + new]), [HOOK_POINT])[HOOK_POINT][len(prompt) :]
        dense = sae.encode(x).dense()
        assert "".join(one.token for one in found.tokens) == found.text
        for row, read in zip(dense, found.tokens, strict=True):
            expected = row.topk(3)
            assert [one.latent for one in read.latents] == expected.indices.tolist()
            for one, value in zip(read.latents, expected.values.tolist(), strict=True):
                assert one.value == pytest.approx(value, rel=1e-4)
                assert one.share == pytest.approx(value / MAXIMUM, rel=1e-4)
                assert one.explanation == (f"meaning {one.latent}" if one.latent % 2 == 0 else None)


def test_latents_cost_no_pass_of_their_own(run):
    model, passes = random_llama(), []
    with model.hooks({"0.resid_pre": lambda x: passes.append(len(x))}):
        Completer(run, model).complete(PROMPTS, (), SAMPLING)
        plain = passes.copy()
        Completer(run, model).complete(PROMPTS, (), SAMPLING, show_latents=3)
    assert passes[len(plain) :] == [*plain, 2]  # only the last token of each row is read as well


def test_events_tell_each_row_in_order_and_its_tokens_one_by_one(run):
    model = random_llama()
    events = list(Completer(run, model).stream(PROMPTS, (), SAMPLING, show_latents=1))
    assert [event.row for event in events[:2] if isinstance(event, Began)] == [0, 1]
    ends = [event for event in events if isinstance(event, Ended)]
    assert [end.row for end in ends] == [0, 1]
    for end in ends:
        own = [event for event in events if event.row == end.row]
        tokens = end.completion.tokens
        wrote = [event for event in own if isinstance(event, Wrote)]
        assert [event.token for event in wrote] == [token.token for token in tokens]
        assert "".join(event.text for event in wrote) + end.text == end.completion.text
        assert [event.latents for event in own if isinstance(event, Read)] == [token.latents for token in tokens]
        assert own[-1] is end
    kinds = [type(event) for event in events if event.row == 0]
    assert kinds[:5] == [Began, Wrote, Read, Wrote, Read]


def test_a_token_is_told_before_the_next_is_computed(run):
    model, passes = random_llama(), []
    with model.hooks({"0.resid_pre": lambda x: passes.append(len(x))}):
        events = Completer(run, model).stream(["Hello"], (), SAMPLING)
        assert passes == []
        told = [len(passes) for event in events if isinstance(event, Wrote)]
    assert told == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("show_latents", [0, 2])
def test_the_token_that_closes_a_text_is_not_part_of_it(run, show_latents):
    model = random_llama()
    plain = [ids_of(model, prompt) for prompt in PROMPTS]
    model.tokenizer.eos_ids = (plain[0][3],)
    found = Completer(run, model).complete(PROMPTS, (), SAMPLING, show_latents=show_latents, perplexity=True)
    for one, ids in zip(found, plain, strict=True):
        end = ids.index(plain[0][3]) if plain[0][3] in ids else None
        assert [token.id for token in one.tokens] == ids[:end]
        assert one.text == model.tokenizer.decode(ids[:end])
        assert one.finish == ("length" if end is None else "stop")
        assert [len(token.latents) for token in one.tokens] == [show_latents] * len(one.tokens)
    assert found[0].finish == "stop"


def test_perplexity_is_the_clean_models(run):
    model = random_llama()
    for one in Completer(run, model).complete(PROMPTS, [Edit(3, 20.0)], SAMPLING, perplexity=True):
        prompt, new = model.tokenizer.encode(one.prompt), [token.id for token in one.tokens]
        logits = model.logits(Packed.pack([prompt + new]))[len(prompt) - 1 : -1]
        assert one.perplexity == pytest.approx(F.cross_entropy(logits, torch.tensor(new)).exp().item(), rel=1e-4)


def test_a_completion_is_json(run):
    (found,) = Completer(run, random_llama()).complete(["Hello"], (), SAMPLING, show_latents=2)
    read = json.loads(json.dumps(found.as_json()))
    assert (read["prompt"], read["text"], read["finish"]) == ("Hello", found.text, "length")
    assert read["tokens"][0]["id"] == found.tokens[0].id
    assert read["tokens"][0]["latents"][0] == found.tokens[0].latents[0]._asdict()


def test_sinks_have_no_latents_and_are_not_steered(run):
    files.save(random_sae(norm_threshold=1e-6), run.folder("sae") / "final")
    model = random_llama()
    (found,) = Completer(run, model).complete(["Hello"], [Edit(3, 50.0)], SAMPLING, show_latents=3)
    assert found.text == written(model, "Hello")
    assert [one.latents for one in found.tokens] == [[]] * len(found.tokens)


def test_a_prompt_may_come_as_tokens(run):
    model = random_llama()
    ids = model.tokenizer.encode("Hello")
    (found,) = Completer(run, model).complete([Prompt("shown", ids)], (), SAMPLING)
    assert (found.prompt, found.text) == ("shown", written(model, "Hello"))


def test_two_sessions_on_one_model_do_not_mix(run):
    shared = Completer(run, random_llama())
    alone = [shared.complete(["Hello"], edits, SAMPLING)[0].text for edits in ([Edit(3, 20.0)], [Edit(9, 30.0)], [])]
    streams = [shared.stream(["Hello"], edits, SAMPLING) for edits in ([Edit(3, 20.0)], [Edit(9, 30.0)], [])]
    told = zip(*streams, strict=True)
    ends = [[event.completion.text for event in step if isinstance(event, Ended)] for step in told]
    assert ends[-1] == alone
    assert len(set(alone)) == 3


def test_mistakes_are_named_before_the_model_is_loaded(run, tmp_path):
    with pytest.raises(SaeError, match=f"latent {N} is out of range"):
        Completer(run).complete(["Hello"], [Edit(N, 1.0)])
    with pytest.raises(ModelError, match="prompt 1 holds bytes that are not UTF-8"):
        Completer(run).complete(["Hello", "a\udcff"])
    empty = Run(tmp_path / "empty", Recipe())
    with pytest.raises(RunError, match="no trained SAE yet"):
        Completer(empty)


def test_mistakes_are_named_before_anything_is_written(run):
    stream = Completer(run, random_llama()).stream
    with pytest.raises(ModelError, match="prompt 1 is empty"):
        stream(["Hello", ""])
    with pytest.raises(ModelError, match="prompt 33 has 100 tokens; with 64 new ones at most 64 fit"):
        stream([*["x"] * 33, "x" * 100], (), Sampling())


def test_load_sae_takes_a_run(run):
    assert torch.equal(load_sae(run.path).W_dec, random_sae().W_dec)
