"""Gemma 3 270M out of its GGUF file: a real model that is not a Llama, through every stage."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from monosem import assets
from monosem.cli import main
from monosem.lm import source
from monosem.lm.generate import Sampling, collect
from monosem.lm.huggingface.model import HuggingFaceModel
from monosem.lm.packed import Packed
from monosem.recipe import ModelRecipe
from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.steering import Edit, steer

pytestmark = [pytest.mark.model, pytest.mark.slow]

TEXTS = [
    "The Treaty of Rome was signed in 1957 by six countries.",
    "Her  novel,   «Цветы», sold 1,250,000 copies.\n\n日本語も。",
    "A 👩‍👩‍👧 family; the sign 𒍅 is rare.\tTabs, too",
]


@pytest.fixture(scope="module")
def gemma() -> HuggingFaceModel:
    model = source.load_model("gemma3-270m", "float32", "cpu")
    assert isinstance(model, HuggingFaceModel)
    return model


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    """The same file as transformers reads it: tokenizer parts, tensors."""
    path = assets.resolve("gemma3-270m").path
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma3_text", num_hidden_layers=18))
    return load_gguf_checkpoint(path, return_tensors=True, model_to_load=empty)


def test_weights_and_configuration_are_transformers(gemma: HuggingFaceModel, theirs: dict[str, Any]) -> None:
    ours = gemma._model.state_dict()
    assert set(ours) - set(theirs["tensors"]) <= {"lm_head.weight"}
    for name, weight in theirs["tensors"].items():
        assert torch.equal(ours[name], weight), name
    for key, value in theirs["config"].items():
        if key not in ("rope_theta", "_model_name_or_path", "bos_token_id", "eos_token_id", "unk_token_id"):
            assert getattr(gemma._model.config, key) == value, key
    rope = gemma._model.config.rope_parameters
    assert (rope["full_attention"]["rope_theta"], rope["sliding_attention"]["rope_theta"]) == (1e6, 1e4)


def test_text_comes_back_whole(gemma: HuggingFaceModel) -> None:
    tokenizer = source.open_tokenizer(ModelRecipe(source="gemma3-270m"))
    for text in TEXTS:
        ids, starts, ends = tokenizer.spans(text)
        assert ids == gemma.tokenizer.encode(text)
        assert tokenizer.pieces(ids[:1]) == ["<bos>"]
        assert tokenizer.decode(ids[1:]) == text
        stream = tokenizer.stream()
        assert "".join([*map(stream.push, ids[1:]), stream.close()]) == text
        covered = [text[start:end] for start, end in zip(starts, ends, strict=True)]
        joined = "".join(part for place, part in enumerate(covered) if starts[place] >= max([0, *ends[:place]]))
        assert joined == text, "spans follow each other"
    assert tokenizer.pieces(tokenizer.encode("𒍅")[1:]) == ["<F0>", "<92>", "<8D>", "<85>"]


def test_without_its_first_token_it_is_lost(gemma: HuggingFaceModel) -> None:
    """The reason for `lm.huggingface.bos` (docs/decisions/0003)."""
    ids = [gemma.tokenizer.encode(text) for text in TEXTS[:1]]

    def loss(sentence: list[int]) -> float:
        logits = gemma.logits(Packed.pack([sentence]))[-13:-1].log_softmax(-1)
        return -float(logits.gather(1, torch.tensor(sentence)[-12:, None]).mean())

    assert loss(ids[0]) < 3.5
    assert loss(ids[0][1:]) > loss(ids[0]) + 2


def test_with_an_sae_in_place_cached_and_uncached_text_agree(gemma: HuggingFaceModel) -> None:
    sae = Autoencoder(SaeConfig(640, 256, 8, normalisation="layer"), torch.Generator().manual_seed(0))
    prompt = gemma.tokenizer.encode("The river flows through")
    plain = collect(gemma.generate([prompt], Sampling(max_new_tokens=10)), 1)[0]
    with steer(gemma, sae, [Edit(7, 4.0)], hook_point="9.resid_post"):
        cached = collect(gemma.generate([prompt, prompt[:3]], Sampling(max_new_tokens=10)), 2)[0]
        ids = list(prompt)
        for _ in range(10):
            ids.append(int(gemma.logits(Packed.pack([ids]))[-1].argmax()))
    assert cached == ids[len(prompt) :]
    assert len(plain) == 10


def test_from_sentences_to_steered_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped recipe, made smaller, through the stages that know nothing of transformers."""
    shipped = Path(__file__).parents[2] / "recipes" / "gemma.toml"
    text = shipped.read_text(encoding="utf-8")
    for old, new in {
        "max_documents = 250": "max_documents = 50",
        "n = 2048": "n = 512",
        "batch = 1024": "batch = 256",
    }.items():
        assert old in text
        text = text.replace(old, new)
    recipe = tmp_path / "gemma.toml"
    recipe.write_text(text, encoding="utf-8")
    for verb in ("sentences", "capture", "prepare", "train", "examples"):
        main([verb, str(recipe), "--runs", str(tmp_path)])
    run = tmp_path / "gemma"
    counts = json.loads((run / "activations" / "9.resid_post" / "manifest.json").read_text())["counts"]
    assert counts["dropped_first"] == counts["sentences"], "<bos> of every sentence"
    assert counts["rows"] == counts["tokens"] - counts["sentences"]
    fvu = json.loads((run / "sae" / "manifest.json").read_text())["counts"]["best_validation_fvu"]
    assert fvu < 0.6, "a shuffled pairing of activations would be near 2, their mean 1"
    capsys.readouterr()
    latents = pq.read_table(run / "examples" / "latents.parquet").sort_by([("max", "descending")])["latent"].to_pylist()
    main(["complete", str(run), "The history of", "--steer", f"{latents[0]}=1max", "--compare", "--json"])
    said = capsys.readouterr().out
    assert said.count("The history of") >= 2, said
