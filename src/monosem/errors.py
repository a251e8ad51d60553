"""The errors that monosem raises for a user to read and mend.

MonosemError
├── RecipeError      a key or value of the recipe, or of a command line
├── AssetError       a model or text: missing, damaged, not reachable
├── CorpusError      documents or sentences that cannot be used
├── ModelError       a checkpoint, hook point or prompt that does not fit
├── StoreError       a shard or store: damaged, missing, of another kind
├── SaeError         an SAE file, a latent or codes that do not fit
├── TrainingError    a training run that cannot go on (diverged, no data)
├── ProviderError    whoever answers prompts: no key, no budget, a batch or file that does not fit
└── RunError         a run folder: locked, made with another recipe, stage missing

Every message is one line: what is wrong, where, what was expected, and what mends it. The command line prints it
without a traceback and exits with 2. Mistakes of ours are `assert`s and end with a traceback.
"""


class MonosemError(Exception):
    """Any condition that the user can mend."""


class RecipeError(MonosemError):
    """A key or value of the recipe does not fit."""


class AssetError(MonosemError):
    """A model or text is missing, damaged or out of reach."""


class CorpusError(MonosemError):
    """Documents or sentences cannot be used."""


class ModelError(MonosemError):
    """A checkpoint, hook point or prompt does not fit the language model."""


class StoreError(MonosemError):
    """A shard or a store of activations is damaged, missing or of another kind."""


class SaeError(MonosemError):
    """An SAE file, a latent or its codes do not fit."""


class TrainingError(MonosemError):
    """Training cannot go on."""


class ProviderError(MonosemError):
    """Whoever answers prompts cannot: no key, no budget, no such server, a batch or file that does not fit."""


class RunError(MonosemError):
    """The run folder is locked, belongs to another recipe, or lacks a stage."""
