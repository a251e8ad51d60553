"""Completion over a run folder: plain text, steering, latents by token, and what is refused."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from random_model import HOOK_POINT, N, random_llama, random_sae

from monosem.completion import Completer
from monosem.errors import RunError, SaeError
from monosem.lm.generate import Sampling, collect
from monosem.lm.packed import Packed
from monosem.recipe import Recipe
from monosem.run import Run
from monosem.sae import files
from monosem.steering import Edit, Steering, load_sae

SAMPLING = Sampling(max_new_tokens=6)
PROMPTS = ("Hello", "A b c")


@pytest.fixture
def run(tmp_path):
    """A run folder with an SAE, its maxima and some explanations."""
    recipe = Recipe.model_validate({"capture": {"hook_points": [HOOK_POINT]}})
    opened = Run(tmp_path / "run", recipe)
    opened.path.mkdir()
    opened.save_recipe()
    files.save(random_sae(), opened.folder("sae") / "final")
    opened.folder("examples").mkdir()
    table = pa.table({"latent": pa.array(range(N), pa.int32()), "max": pa.array([2.0] * N, pa.float32())})
    pq.write_table(table, opened.folder("examples") / "latents.parquet")
    opened.folder("explanations").mkdir()
    rows = [{"latent": latent, "explanation": f"meaning {latent}", "certainty": 0.5} for latent in range(0, N, 2)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (opened.folder("explanations") / "explanations.jsonl").write_text(text)
    return opened


def written(model, prompt, hooks=None):
    ids = model.tokenizer.encode(prompt)
    with model.hooks(hooks or {}):
        return model.tokenizer.decode(collect(model.generate([ids], SAMPLING), 1)[0])


def test_without_edits_it_is_the_model_itself(run):
    model = random_llama()
    found = Completer(run, model).complete(PROMPTS, sampling=SAMPLING)
    assert [one.prompt for one in found] == list(PROMPTS)
    assert [one.text for one in found] == [written(model, prompt) for prompt in PROMPTS]
    assert [one.tokens for one in found] == [[], []]


@pytest.mark.parametrize("error_preserving", [True, False])
def test_edits_steer_every_prompt(run, error_preserving):
    model = random_llama()
    edits = [Edit(3, 10.0, unit="max")]
    found = Completer(run, model).complete(PROMPTS, edits, SAMPLING, error_preserving=error_preserving)
    hook = Steering(random_sae(), [Edit(3, 20.0)], error_preserving=error_preserving)
    assert [one.text for one in found] == [written(model, prompt, {HOOK_POINT: hook}) for prompt in PROMPTS]
    assert [one.text for one in found] != [written(model, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("edits", [(), (Edit(3, 20.0),)])
def test_latents_are_those_that_the_clean_model_sees_in_the_text(run, edits):
    model, sae = random_llama(), random_sae()
    for found in Completer(run, model).complete(PROMPTS, edits, SAMPLING, show_latents=3):
        prompt, new = model.tokenizer.encode(found.prompt), model.tokenizer.encode(found.text, special=True)
        x = model.activations(Packed.pack([prompt + new]), [HOOK_POINT])[HOOK_POINT][len(prompt) :]
        dense = sae.encode(x).dense()
        assert "".join(one.token for one in found.tokens) == found.text
        for row, read in zip(dense, found.tokens, strict=True):
            expected = row.topk(3)
            assert [one.latent for one in read.latents] == expected.indices.tolist()
            for one, value in zip(read.latents, expected.values.tolist(), strict=True):
                assert one.value == pytest.approx(value, rel=1e-5)
                assert one.share == pytest.approx(value / 2, rel=1e-5)
                assert one.explanation == (f"meaning {one.latent}" if one.latent % 2 == 0 else None)


def test_a_completion_is_json(run):
    (found,) = Completer(run, random_llama()).complete(["Hello"], (), SAMPLING, show_latents=2)
    read = json.loads(json.dumps(found.as_json()))
    assert (read["prompt"], read["text"]) == ("Hello", found.text)
    assert read["tokens"][0]["latents"][0] == found.tokens[0].latents[0]._asdict()


def test_sinks_have_no_latents_and_are_not_steered(run):
    files.save(random_sae(norm_threshold=1e-6), run.folder("sae") / "final")
    model = random_llama()
    (found,) = Completer(run, model).complete(["Hello"], [Edit(3, 50.0)], SAMPLING, show_latents=3)
    assert found.text == written(model, "Hello")
    assert [one.latents for one in found.tokens] == [[]] * len(found.tokens)


def test_mistakes_are_named_before_the_model_is_loaded(run, tmp_path):
    with pytest.raises(SaeError, match=f"latent {N} is out of range"):
        Completer(run).complete(["Hello"], [Edit(N, 1.0)])
    empty = Run(tmp_path / "empty", Recipe())
    with pytest.raises(RunError, match="no trained SAE yet"):
        Completer(empty)


def test_load_sae_takes_a_run(run):
    assert torch.equal(load_sae(run.path).W_dec, random_sae().W_dec)
