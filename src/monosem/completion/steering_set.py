"""Edits of latents as a TOML file: what `/save` in a chat writes and `--steering` reads.

replace = false

[[edit]]
latent = 896
value = 20.0        # in units of the codes; or `max = 2.0`, in multiples of its largest observed value
mode = "add"        # or clamp, scale, ablate
"""

import difflib
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monosem.atomic import write_text
from monosem.errors import RecipeError, SaeError
from monosem.steering import Edit

_EDIT_KEYS = ("latent", "value", "max", "mode")


@dataclass(frozen=True)
class SteeringSet:
    """Edits that belong together."""

    edits: tuple[Edit, ...] = ()
    replace: bool = False
    """Put the SAE's reconstruction in the activation's place, instead of keeping its error."""

    @classmethod
    def load(cls, path: Path) -> "SteeringSet":
        """Read a file.

        Raises:
            RecipeError: it is missing, not TOML, or has a key or value that does not fit.
        """
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RecipeError(f"{path}: no such file; /save in a chat writes one") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise RecipeError(f"{path}: cannot be read as TOML ({error})") from None
        _check_keys(raw, ("replace", "edit"), str(path))
        replace, tables = raw.get("replace", False), raw.get("edit", [])
        if not isinstance(replace, bool):
            raise RecipeError(f"{path}: replace is {replace!r}, expected true or false")
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise RecipeError(f"{path}: expected [[edit]] tables")
        return cls(tuple(_edit(table, f"{path}: edit {place}") for place, table in enumerate(tables)), replace)

    def save(self, path: Path) -> None:
        """Write a file, whole or not at all.

        Raises:
            RecipeError: it cannot be written there.
        """
        try:
            write_text(path, self.toml())
        except OSError as error:
            raise RecipeError(f"{path}: {error.strerror}; nothing was saved") from None

    def toml(self) -> str:
        """The text of its file."""
        return "\n".join([f"replace = {'true' if self.replace else 'false'}\n", *map(_table, self.edits)])

    def updated(self, edits: Iterable[Edit]) -> "SteeringSet":
        """The set with these edits; one of a latent that it has takes the other's place."""
        by_latent = {edit.latent: edit for edit in self.edits} | {edit.latent: edit for edit in edits}
        return SteeringSet(tuple(by_latent.values()), self.replace)


def _table(edit: Edit) -> str:
    key = "max" if edit.unit == "max" else "value"
    return f'[[edit]]\nlatent = {edit.latent}\n{key} = {edit.value!r}\nmode = "{edit.mode}"\n'


def _edit(table: Mapping[str, Any], where: str) -> Edit:
    _check_keys(table, _EDIT_KEYS, where)
    latent, mode = table.get("latent"), table.get("mode", "add")
    if type(latent) is not int or latent < 0:
        raise RecipeError(f"{where}: latent is {latent!r}, expected the number of a latent")
    given = [name for name in ("value", "max") if name in table]
    if len(given) != 1 and not (mode == "ablate" and not given):
        raise RecipeError(f"{where}: expected either value or max, has {' and '.join(given) or 'neither'}")
    value = table[given[0]] if given else 0.0
    if type(value) not in (int, float):
        raise RecipeError(f"{where}: {given[0]} is {value!r}, expected a number")
    try:
        return Edit(latent, float(value), mode, "max" if "max" in given else "raw")
    except SaeError as error:
        raise RecipeError(f"{where}: {error}") from None


def _check_keys(table: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in table:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(known)}"
            raise RecipeError(f"{where}: unknown key {key!r}; {hint}")
