"""Templates to HTML, with autoescape: whatever a model, a corpus or a person wrote stays text.

Knows the look of figures and of sentences as heat maps; the templates lie in `assets/`.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from monosem.interpret.cards import pieces, visible

NONE = "\N{EN DASH}"  # in the place of a figure that is not there
ASSETS = Path(__file__).parent / "assets"


def render(template: str, **values: Any) -> str:
    """The HTML of one template."""
    return _environment().get_template(f"{template}.html.jinja").render(values)


def guide(tab: str) -> str:
    """What one does on a tab, for somebody who has never seen it."""
    return render("guide", tab=tab)


def message(text: str, kind: str = "note") -> str:
    """One line for the reader; `kind`: `note` or `error`."""
    return str(Markup('<p class="ms-line ms-{}" role="status">{}</p>').format(kind, text))


def short(value: float | None) -> str:
    """A figure with three digits, thousands apart."""
    if value is None or value != value:
        return NONE
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def column(value: float) -> str:
    """A figure among others of its kind, below each other: three digits, zeros kept."""
    return short(value) if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def unit(value: float) -> str:
    """A figure between 0 and 1."""
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"


def percent(share: float | None) -> str:
    """A share of 1, in per cent."""
    return NONE if share is None else f"{short(100 * share)} %"


def asset(name: str) -> str:
    """The text of a file of `assets/`."""
    return (ASSETS / name).read_text(encoding="utf-8")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "short": short,
        "percent": percent,
        "column": column,
        "unit": unit,
        "visible": visible,
        "count": "{:,}".format,
    }
    environment.globals |= {"pieces": pieces, "as_json": _as_json}
    return environment


def _as_json(value: Any) -> str:
    """JSON for an attribute; the template escapes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
