"""The prompts that ask for an explanation: templates in files, with a version and a digest of their text.

All that the requests of a run share is in the system prompt, so that a provider can cache it; the sentences follow.
Knows no provider and no files of a run.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2

from monosem.interpret.providers.protocol import Request
from monosem.recipe import ExplainRecipe

TEMPLATES = Path(__file__).with_name("templates")
STEPS = {"full": ("key_words", "themes", "outliers", "strength"), "short": ()}
"""What is asked for before the explanation, in order: a model that writes it down first explains better."""
USUAL_ANSWER = {"full": 350, "short": 60}
"""Tokens of a usual answer, for estimates; a model that thinks needs more."""


class Prompter:
    """Writes the requests of one run.

    Args:
        recipe: decides template, language, and settings of the answers.
    """

    def __init__(self, recipe: ExplainRecipe) -> None:
        self._recipe = recipe
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=False
        )
        self.system = environment.get_template(f"{recipe.template}.system.jinja").render(language=recipe.language)
        self._prompt = environment.get_template("prompt.jinja")
        self._schema = schema(recipe.template)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Template, its version, and the sha256 of its files: what provenance names."""
        files = [TEMPLATES / f"{self._recipe.template}.system.jinja", TEMPLATES / "prompt.jinja"]
        texts = [file.read_text(encoding="utf-8") for file in files]
        found = re.match(r"\{#- version (\d+) -#\}", texts[0])
        assert found, f"{files[0]}: it does not begin with its version"
        digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        return {"template": self._recipe.template, "version": int(found[1]), "sha256": digest}

    def request(self, id_: str, lines: Sequence[str]) -> Request:
        """The request that shows these sentences."""
        return Request(
            id_,
            self.system,
            self._prompt.render(lines=lines),
            self._recipe.max_tokens,
            self._schema,
            self._recipe.temperature,
        )


def schema(template: str) -> Mapping[str, Any]:
    """JSON schema of an answer, with nothing that one of the providers does not take."""
    steps = {key: {"type": "string"} for key in (*STEPS[template], "explanation")}
    return {
        "type": "object",
        "properties": {**steps, "certainty": {"type": "number"}},
        "required": [*steps, "certainty"],
        "additionalProperties": False,
    }
