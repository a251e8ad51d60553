"""What every section of a recipe shares: it is frozen, knows its keys, and reports a bad value in one line."""

from typing import Annotated, Any, ClassVar, Self

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
OPERATIONAL: dict[str, JsonValue] = {"operational": True}  # marks a key that cannot change any byte of the result


LATER: dict[str, JsonValue] = {"later": True}  # marks a key that files were made without: at its default it is left out


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
        without = {
            name
            for name, info in type(self).model_fields.items()
            if isinstance(marks := info.json_schema_extra, dict)
            and (marks.get("operational") or (marks.get("later") and getattr(self, name) == info.default))
        }
        return self.model_dump(mode="json", exclude=without)


def _describe(error: ValidationError, prefix: str) -> str:
    """One line for the first thing wrong in a validation error."""
    first = error.errors()[0]
    key = prefix + ".".join(str(part) for part in first["loc"])
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{key.rstrip('.')}: {message} (got {first['input']!r})"
