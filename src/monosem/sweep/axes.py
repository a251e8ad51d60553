"""From the command line to the recipes of a sweep: every combination of the values that were listed.

`--sae.k 16,32` is an axis, `--sae.k 16` only sets a key. Keys that hold lists take `;` between the values of an axis.
An axis may change whatever leaves the batches alone, so that one pass of the store serves all.
"""

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast, get_origin

from monosem import recipe as recipes
from monosem.errors import RecipeError
from monosem.recipe import Recipe
from monosem.recipe.section import Section
from monosem.train.settings import seed_of

FIXED = (
    "train.batch",
    "train.hook_point",
    "train.target_hook_point",
    "train.order_seed",
    "train.device",
    "train.mesh",
    "train.workers",
    "train.wandb",
)
"""Keys of training that all SAEs of a sweep share."""


class Member(NamedTuple):
    """One SAE of a sweep."""

    recipe: Recipe
    """Its name is the member's."""
    values: dict[str, Any]
    """By axis, what it has there."""


class Sweep(NamedTuple):
    """What is trained."""

    recipe: Recipe
    """What all share; its run holds the activations."""
    members: list[Member]


def read(base: Recipe, arguments: Sequence[str]) -> Sweep:
    """The sweep that `--key value` pairs describe, over and above a recipe.

    Raises:
        RecipeError: a key or value that does not exist, an axis that would change the batches, or no axis at all.
    """
    given = _pairs(arguments)
    listed = {key: _values(key, text) for key, text in given.items()}
    axes = {key: values for key, values in listed.items() if len(values) > 1}
    if not axes:
        raise RecipeError("a sweep needs an axis: list the values of a key, as in --sae.k 16,32,64")
    for key in axes:
        _check_axis(key)
    shared = _with(base, {key: values[0] for key, values in listed.items() if key not in axes})
    if shared.train.mesh is not None:
        raise RecipeError(
            f"train.mesh = {list(shared.train.mesh)} is of ranks that train one SAE together; in a sweep each rank has "
            "SAEs of its own: leave it out (--train.mesh none)"
        )
    order = seed_of(shared) if shared.train.order_seed is None else shared.train.order_seed
    members = []
    for chosen in itertools.product(*axes.values()):
        values = dict(zip(axes, chosen, strict=True))
        # the run's own seed decides its sentences too; a sweep varies that of the SAE
        changes = {"train.seed" if key == "seed" else key: value for key, value in values.items()}
        name = "-".join(_label(key, value) for key, value in values.items())
        members.append(Member(_with(shared, {**changes, "train.order_seed": order, "name": name}), values))
    return Sweep(shared, members)


def _pairs(arguments: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        key, equals, value = flag.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if not flag.startswith("--") or key not in recipes.known_keys():
            nearest = difflib.get_close_matches(key, recipes.known_keys(), n=1, cutoff=0.4)
            hint = f"; did you mean --{nearest[0]}?" if nearest else ""
            raise RecipeError(f"{flag}: a sweep has no such axis{hint}")
        if not equals:
            if not rest:
                raise RecipeError(f"{flag}: expected a value, or several with commas between them")
            value = rest.pop(0)
        given[key] = value
    return given


def _values(key: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(";" if _is_list(key) else ",")]
    if "" in parts:
        raise RecipeError(f"--{key} {text}: a value is empty; list them as in 16,32,64")
    if len(set(parts)) < len(parts):
        raise RecipeError(f"--{key} {text}: a value stands there twice")
    return parts


def _check_axis(key: str) -> None:
    section = key.partition(".")[0]
    if key in FIXED or section not in ("sae", "train", "seed"):
        raise RecipeError(
            f"--{key}: cannot be an axis, because the SAEs of a sweep share one pass of the same batches; "
            "give each value a run of its own"
        )


def _is_list(key: str) -> bool:
    section, _, name = key.rpartition(".")
    model = cast(type[Section], Recipe.model_fields[section].annotation) if section else Recipe
    return get_origin(model.model_fields[name].annotation) is tuple


def _with(base: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """`base` with some keys changed; texts are read as the recipe's types ask."""
    data = base.model_dump(mode="json", exclude_none=True)
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        place = data.setdefault(section, {}) if section else data
        if value == "none":
            place.pop(name, None)
        else:
            place[name] = [part for part in value.split(",") if part] if _is_list(key) else value
    return recipes.parse(data, "sweep")


def _label(key: str, value: str) -> str:
    """`sae.k`, `16` as `k16`: fit for the name of a folder."""
    joint = "" if value[:1].isdigit() else "-"
    return re.sub(r"[^A-Za-z0-9._-]+", "_", f"{key.rpartition('.')[2]}{joint}{value}")
