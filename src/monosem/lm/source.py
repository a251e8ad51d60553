"""From the recipe's model section to a language model in memory."""

from monosem import assets
from monosem.lm.checkpoint import load_model
from monosem.lm.protocol import LanguageModel
from monosem.recipe import ModelRecipe


def open_model(recipe: ModelRecipe) -> LanguageModel:
    """Load the language model that the recipe names.

    Raises:
        AssetError: its files cannot be had.
        ModelError: they are not a model that monosem reads.
    """
    device = None if recipe.device == "auto" else recipe.device
    return load_model(assets.resolve(recipe.source).path, dtype=recipe.dtype, device=device)
