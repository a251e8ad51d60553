"""The list of known language models: what `monosem models` prints."""

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from monosem.lm.known import BYTES, KNOWN_MODELS, KnownModel, is_here

NOTE = (
    "fp32 and bf16 are the memory of the weights, KV/token that of a token's keys and values in bf16; the hook point "
    "is at about 5/6 of the depth. Any other model is named by its file, its folder or hf:org/name."
)
_COLUMNS = {
    "family": 6,
    "layers": 6,
    "d": 4,
    "params": 6,
    "context": 7,
    "fp32": 7,
    "bf16": 7,
    "KV/token": 8,
    "hook point": 13,
}


def show(*, as_json: bool) -> None:
    """Print the models, with memory needs computed from their shapes."""
    if as_json:
        print(json.dumps([_as_json(model) for model in KNOWN_MODELS]))
        return
    console = Console(highlight=False)
    name_cells = max(len(model.source) for model in KNOWN_MODELS)
    rows = [_aligned([*_COLUMNS, "here"]), *(_aligned(_figures(model)) for model in KNOWN_MODELS)]
    wide = console.width >= name_cells + max(map(len, rows))
    # where one line is too narrow, a model's name has a line of its own
    names = [f"{name:<{name_cells}}" if wide else f"{name}\n" for name in (model.source for model in KNOWN_MODELS)]
    console.print(Text(" " * name_cells * wide + rows[0], style="dim"), soft_wrap=True)
    for name, row in zip(names, rows[1:], strict=True):
        console.print(Text.assemble((name, "bold"), row), soft_wrap=True)
    console.print(f"\n{NOTE}", style="dim")


def _figures(model: KnownModel) -> list[str]:
    shape = model.config
    return [
        model.architecture,
        str(shape.n_layers),
        str(shape.d_model),
        _short(model.parameters),
        f"{shape.context_length // 1024} k",
        _size(model.weight_bytes("float32")),
        _size(model.weight_bytes("bfloat16")),
        _size(model.cache_bytes("bfloat16")),
        model.hook_point,
        "yes" if is_here(model.source) else "",
    ]


def _aligned(cells: Sequence[str]) -> str:
    *figures, here = cells
    columns = "".join(f" {cell:>{width}}" for cell, width in zip(figures, _COLUMNS.values(), strict=True))
    return f"{columns}  {here}".rstrip()


def _as_json(model: KnownModel) -> dict[str, Any]:
    shape = model.config
    return {
        "source": model.source,
        "architecture": model.architecture,
        "chat": model.chat,
        "layers": shape.n_layers,
        "d": shape.d_model,
        "parameters": model.parameters,
        "context": shape.context_length,
        "weight_bytes": {dtype: model.weight_bytes(dtype) for dtype in BYTES},
        "cache_bytes_a_token": {dtype: model.cache_bytes(dtype) for dtype in BYTES},
        "hook_point": model.hook_point,
        "here": is_here(model.source),
    }


def _short(count: int) -> str:
    return f"{count / 1e9:.3g} B" if count >= 1e9 else f"{count / 1e6:.0f} M"


def _size(size: int) -> str:
    if size >= 1e9:
        return f"{size / 1e9:.3g} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
