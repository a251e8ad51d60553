"""Which implementation a model's files are given to."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from small_models import random_llama, small_config, write_folder, write_gguf
from test_huggingface import write_model

from monosem.errors import ModelError
from monosem.lm import source
from monosem.lm.huggingface.model import HuggingFaceModel
from monosem.lm.llama import Llama
from monosem.recipe import ModelRecipe


def test_a_llama_is_ours_and_the_rest_is_transformers(tmp_path: Path, small_folder: Path) -> None:
    assert isinstance(source.load_model(str(small_folder), device="cpu"), Llama)
    write_model(tmp_path, "qwen3")
    model = source.load_model(str(tmp_path), device="cpu")
    assert isinstance(model, HuggingFaceModel)
    assert (model.name, model.config.head_dim, model.config.n_kv_heads) == (tmp_path.name, 16, 3)
    assert 262 in model.tokenizer.eos_ids


def test_a_tokenizer_needs_no_weights(tmp_path: Path) -> None:
    write_model(tmp_path, "gpt2")
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    tokenizer = source.open_tokenizer(ModelRecipe(source=str(tmp_path)))
    assert tokenizer.decode(tokenizer.encode("in the €")) == "in the €"
    with pytest.raises(ModelError, match=r"transformers cannot load it \(") as error:
        source.load_model(str(tmp_path), device="cpu")
    assert "\n" not in str(error.value)


def test_gemma_gets_its_first_token_from_a_folder_too(tmp_path: Path) -> None:
    write_model(tmp_path, "gemma3_text")
    tokenizer = source.open_tokenizer(ModelRecipe(source=str(tmp_path)))
    assert tokenizer.encode("the")[0] == 260
    assert tokenizer.encode_batch(["the", "in"]) == [tokenizer.encode("the"), tokenizer.encode("in")]


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, "qwen2", vocab_size=200, pad_token_id=None, bos_token_id=None, eos_token_id=None)
    with pytest.raises(ModelError, match="the tokenizer has 260 tokens but the embedding 200 rows; they do not match"):
        source.load_model(str(tmp_path), device="cpu")


def test_special_tokens_without_a_row_are_not_the_models(tmp_path: Path) -> None:
    """As in the text-only Gemma 3: its tokenizer knows the tokens of pictures, its embedding does not."""
    write_model(tmp_path, "gemma3_text", vocab_size=262, pad_token_id=None, eos_token_id=1)
    tokenizer = source.load_model(str(tmp_path), device="cpu").tokenizer
    assert (tokenizer.vocab_size, "<|im_end|>" in tokenizer.special) == (262, False)
    assert max(tokenizer.encode("in<|im_end|>", special=True)) < 261


def test_what_nobody_knows_is_one_line(tmp_path: Path) -> None:
    reference = random_llama(small_config())
    file = write_gguf(tmp_path / "model.gguf", reference, architecture="rwkv7")
    for read in (lambda: source.load_model(str(file)), lambda: source.open_tokenizer(ModelRecipe(source=str(file)))):
        with pytest.raises(ModelError, match=r"GGUF of architecture 'rwkv7' is not known; known: llama, gemma3; take"):
            read()
    folder = write_folder(tmp_path / "folder", reference)
    (folder / "config.json").write_text('{"model_type": "never_heard_of"}')
    with pytest.raises(ModelError, match=r"transformers cannot load it \(.*never_heard_of") as error:
        source.load_model(str(folder))
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="dtype 'int3' is not known; known: float32"):
        source.load_model(str(folder), dtype="int3")


def test_without_transformers_the_error_says_what_to_install(tmp_path: Path) -> None:
    write_model(tmp_path, "qwen2")
    code = f"""
    import sys
    sys.modules["transformers"] = None
    from monosem.errors import ModelError
    from monosem.lm import source
    try:
        source.load_model({str(tmp_path)!r})
    except ModelError as error:
        print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.stdout.endswith('only Llama runs without transformers; pip install "monosem[hf]"\n'), done.stderr


def test_our_llama_never_imports_transformers(small_folder: Path) -> None:
    code = f"""
    import sys
    from monosem.lm import source
    source.load_model({str(small_folder)!r})
    print("transformers" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr
