"""The recipe: round trips, nearest keys, one-line errors, what a fingerprint covers."""

import tomllib
from pathlib import Path

import pytest

from monosem import recipe
from monosem.errors import RecipeError
from monosem.recipe import Recipe, SaeRecipe, TrainRecipe


def test_a_dumped_recipe_reads_back_the_same() -> None:
    changed = Recipe(name="x", sae=SaeRecipe(n=4096, k=8), train=TrainRecipe(clip=1.5, betas=(0.5, 0.75)))
    assert recipe.parse(tomllib.loads(recipe.dump(changed)), "x") == changed


def test_the_defaults_are_the_reference_system_s() -> None:
    default = Recipe()
    assert (default.sae.n, default.sae.k, default.train.k_aux) == (65_536, 64, 2_048)
    assert (default.train.batch, default.train.epochs) == (8_192, 10)
    assert (default.train.lr, default.train.lr_final, default.train.schedule) == (5e-5, 1e-5, "cosine")
    assert (default.train.betas, default.train.eps) == ((0.85, 0.9999), 6.25e-10)
    assert default.sae.normalisation == "layer"


@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_in_the_repository_is_valid(path: Path) -> None:
    assert recipe.load(path).name == path.stem


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sae": {"kk": 3}}, "x.toml: unknown key 'sae.kk'; did you mean 'sae.k'?"),
        ({"k_aux": 3}, "x.toml: unknown key 'k_aux'; did you mean 'train.k_aux'?"),
        ({"train": {"learning_rate": 1.0}}, "x.toml: unknown key 'train.learning_rate'"),
        ({"sae": {"k": 0}}, "x.toml: sae.k: input should be greater than or equal to 1 (got 0)"),
        ({"sae": {"k": "many"}}, "x.toml: sae.k: input should be a valid integer"),
        ({"sae": {"k": 9, "n": 8}}, "x.toml: sae.k = 9 is larger than sae.n = 8; choose k <= n"),
        ({"sae": {"n": 64}, "train": {"k_aux": 65}}, "x.toml: train.k_aux = 65 is larger than sae.n = 64; lower it"),
        ({"train": {"k_anneal_start": 128}}, "x.toml: train.k_anneal_start does nothing while train.k_anneal_fraction"),
        (
            {"train": {"k_anneal_start": 64, "k_anneal_fraction": 0.6}},
            "x.toml: train.k_anneal_start = 64: expected more than sae.k = 64, and at most sae.n = 65536",
        ),
        ({"sae": 3}, "x.toml: sae: input should be a valid dictionary"),
        ({"train": {"betas": [0.9, 1.0]}}, "x.toml: train.betas = (0.9, 1.0): each must be in [0, 1)"),
        (
            {"train": {"hook_point": "3.z"}},
            "x.toml: train.hook_point = '3.z' is not among capture.hook_points",
        ),
        ({"capture": {"dtype": "int3"}}, "x.toml: capture.dtype: input should be 'float32'"),
        ({"name": "../up"}, "x.toml: name: string should match pattern"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(data: dict, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        recipe.parse(data, "x.toml")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_section_made_in_code_gives_the_same_error() -> None:
    with pytest.raises(RecipeError, match=r"^sae\.k: input should be greater than or equal to 1"):
        SaeRecipe(k=-1)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml: no such recipe"):
        recipe.load(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[sae\nk = 3")
    with pytest.raises(RecipeError, match=r"broken\.toml: not TOML: .*line 1"):
        recipe.load(broken)


def test_keys_that_cannot_change_the_result_are_not_in_the_fingerprint() -> None:
    plain, other = TrainRecipe(), TrainRecipe(device="cuda", wandb="offline", workers=7, checkpoint_minutes=1)
    assert plain.fingerprint_part() == other.fingerprint_part()
    assert plain.fingerprint_part() != TrainRecipe(lr=1e-3).fingerprint_part()
