"""The list of known models."""

import json
import re

import pytest

from monosem.cli import main
from monosem.lm.known import KNOWN_MODELS


@pytest.mark.parametrize("columns", ["80", "120"])
def test_every_model_is_listed_within_the_width(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    main(["models"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= int(columns)
    for model in KNOWN_MODELS:
        place = next(place for place, line in enumerate(lines) if re.match(rf"{re.escape(model.source)}( |$)", line))
        figures = " ".join(lines[place : place + 1 + (columns == "80")])
        assert f" {model.config.n_layers} " in figures
        assert f" {model.hook_point}" in figures


def test_the_list_is_json(capsys):
    main(["models", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert [one["source"] for one in listed] == [model.source for model in KNOWN_MODELS]
    (llama,) = [one for one in listed if one["source"] == "hf:meta-llama/Llama-3.2-3B"]
    assert llama["parameters"] == 3_212_749_824
    assert llama["weight_bytes"]["bfloat16"] == 2 * llama["parameters"]
    assert llama["cache_bytes_a_token"] == {"float32": 229_376, "bfloat16": 114_688}
    assert (llama["layers"], llama["d"], llama["context"], llama["chat"]) == (28, 3072, 131_072, False)
