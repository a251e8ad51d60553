"""What tokens cost: a table in a TOML file, which a file of the user's own goes before.

A model that the table does not name has no price; nothing is guessed.
"""

import re
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from monosem.errors import RecipeError
from monosem.interpret.providers.protocol import Usage

TABLE = Path(__file__).with_name("prices.toml")
DATED = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")  # a version of a model: its price is the model's
OWN_MACHINE = ("vllm", "lm")  # providers that nobody bills


class Price(BaseModel):
    """US dollars for a million tokens of one model, batch rebate not taken off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cache_read: float | None = Field(default=None, ge=0)
    """None: as `input`."""
    cache_write: float | None = Field(default=None, ge=0)
    longest: int | None = None
    """Most tokens of a prompt that this price holds for."""
    context: int | None = None
    """Tokens that fit the model."""
    batch: float = Field(default=1.0, gt=0, le=1)
    """What a batch costs, as a share."""
    as_of: str = ""
    """When it was looked up."""

    def of(self, usage: Usage) -> float:
        """US dollars for some tokens."""
        read = self.input if self.cache_read is None else self.cache_read
        written = self.input if self.cache_write is None else self.cache_write
        cost = usage.input * self.input + usage.output * self.output
        return self.batch * (cost + usage.cache_read * read + usage.cache_write * written) / 1e6


class _Provider(BaseModel):
    model_config = ConfigDict(extra="forbid")

    batch: float = 1.0
    models: dict[str, Price] = {}


FREE = Price(input=0.0, output=0.0)


def find_price(provider: str, model: str, own: str | None) -> Price | None:
    """The price of a model; None where no table names it.

    Args:
        own: path of the user's own table.

    Raises:
        RecipeError: the user's table is missing or not of the form.
    """
    if provider in OWN_MACHINE:
        return FREE
    for path in [*([Path(own)] if own else []), TABLE]:
        as_of, providers = _read(path)
        listed = providers.get(provider, _Provider())
        price = listed.models.get(model) or listed.models.get(DATED.sub("", model))
        if price is not None:
            return price.model_copy(update={"batch": listed.batch, "as_of": as_of})
    return None


def _read(path: Path) -> tuple[str, dict[str, _Provider]]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        as_of = str(data.pop("as_of", path.name))
        return as_of, {name: _Provider.model_validate(section) for name, section in data.items()}
    except FileNotFoundError:
        raise RecipeError(f"explain.prices: {path}: no such file") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"explain.prices: {path}: {place}: {first['msg'].lower()}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"explain.prices: {path}: not TOML: {error}") from None
