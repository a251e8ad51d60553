"""From recipes to the settings of a step."""

import pytest

from monosem import recipe
from monosem.train.settings import Plan, step_settings


@pytest.mark.parametrize(("train", "start"), [({}, 96), ({"k_anneal_start": 24}, 24)])
def test_k_falls_from_the_width_or_from_where_the_recipe_says(train: dict, start: int) -> None:
    found = recipe.parse(
        {"sae": {"n": 512, "k": 8}, "train": {"batch": 10, "k_aux": 48, "k_anneal_fraction": 0.5, **train}}, "x.toml"
    )
    settings = step_settings(found, Plan.of(found, rows=100), d=96)
    assert (settings.k_start, settings.k_steps) == (start, 50)
