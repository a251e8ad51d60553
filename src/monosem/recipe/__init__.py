"""The recipe: everything that decides a run, one frozen model per stage, read from TOML and written back resolved.

Flow: `load` reads a file, names unknown keys and bad values as one-line errors, and returns a `Recipe`; the command
line lays overrides over it; `dump` writes the resolved recipe into the run. `Section.fingerprint_part` leaves out the
keys that change how a stage runs but not what it makes. Knows nothing of folders, models or data.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, Field, model_validator

from monosem.errors import RecipeError
from monosem.recipe.data import CaptureRecipe, CorpusRecipe, ModelRecipe, PrepareRecipe
from monosem.recipe.finetune import FinetuneRecipe
from monosem.recipe.latents import CoactivationRecipe, GroupsRecipe
from monosem.recipe.reading import (
    AGGREGATIONS,
    Aggregation,
    EvaluateRecipe,
    ExamplesRecipe,
    ExplainRecipe,
    ReportRecipe,
)
from monosem.recipe.scoring import ScoreRecipe
from monosem.recipe.section import OPERATIONAL, Section
from monosem.recipe.training import SaeRecipe, TrainRecipe, check_training

__all__ = [
    "AGGREGATIONS",
    "Aggregation",
    "CaptureRecipe",
    "CoactivationRecipe",
    "CorpusRecipe",
    "EvaluateRecipe",
    "ExamplesRecipe",
    "ExplainRecipe",
    "FinetuneRecipe",
    "GroupsRecipe",
    "ModelRecipe",
    "PrepareRecipe",
    "Recipe",
    "ReportRecipe",
    "SaeRecipe",
    "ScoreRecipe",
    "TrainRecipe",
    "dump",
    "known_keys",
    "load",
    "parse",
]


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
    finetune: FinetuneRecipe = FinetuneRecipe()
    examples: ExamplesRecipe = ExamplesRecipe()
    coactivation: CoactivationRecipe = CoactivationRecipe()
    groups: GroupsRecipe = GroupsRecipe()
    explain: ExplainRecipe = ExplainRecipe()
    evaluate: EvaluateRecipe = EvaluateRecipe()
    score: ScoreRecipe = ScoreRecipe()
    report: ReportRecipe = ReportRecipe()

    @model_validator(mode="after")
    def _sections_fit(self) -> "Recipe":
        for key in ("hook_point", "target_hook_point"):
            chosen = getattr(self.train, key)
            if chosen is not None and chosen not in self.capture.hook_points:
                captured = ", ".join(self.capture.hook_points)
                raise RecipeError(f"train.{key} = {chosen!r} is not among capture.hook_points: {captured}")
        if self.train.target_hook_point == self.hook_point:
            raise RecipeError(f"train.target_hook_point = {self.hook_point!r} is what is read as well; drop it")
        if self.sae.skip and self.train.target_hook_point is None:
            raise RecipeError("sae.skip goes with a transcoder: set train.target_hook_point, or drop it")
        check_training(self.sae, self.train)
        return self

    @property
    def hook_point(self) -> str:
        """The hook point the SAE reads."""
        return self.train.hook_point or self.capture.hook_points[0]

    @property
    def output_hook_point(self) -> str:
        """The hook point the SAE reconstructs, and where its latents are edited: another one for a transcoder."""
        return self.train.target_hook_point or self.hook_point

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The hook points whose activations training needs: one, or a transcoder's two."""
        return tuple(dict.fromkeys((self.hook_point, self.output_hook_point)))


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
