"""Axes on the command line become recipes, or one line that says what is wrong."""

import pytest

from monosem.errors import RecipeError
from monosem.recipe import Recipe
from monosem.sweep import axes


def test_every_combination_is_a_member() -> None:
    sweep = axes.read(Recipe(), ["--sae.k", "16,32", "--sae.n", "4096", "--seed", "0,1,2", "--train.lr=1e-3,2e-3"])
    assert len(sweep.members) == 12
    assert sweep.recipe.sae.n == 4096
    names = [member.recipe.name for member in sweep.members]
    assert names[0] == "k16-seed0-lr1e-3"
    assert len(set(names)) == 12
    last = sweep.members[-1].recipe
    assert (last.sae.k, last.sae.n, last.train.seed, last.train.lr) == (32, 4096, 2, 2e-3)
    assert last.seed == 0  # the sentences are the same for all
    assert {member.recipe.train.order_seed for member in sweep.members} == {0}


def test_lists_and_names_are_values_too() -> None:
    arguments = ["--sae.prefixes", "16,64;128", "--sae.sparsity", "topk,batchtopk", "--train.multi-k", ""]
    with pytest.raises(RecipeError, match="a value is empty"):
        axes.read(Recipe(), arguments)
    sweep = axes.read(Recipe(), arguments[:4])
    assert [member.recipe.sae.prefixes for member in sweep.members] == [(16, 64)] * 2 + [(128,)] * 2
    assert [member.recipe.name for member in sweep.members][:2] == [
        "prefixes16_64-sparsity-topk",
        "prefixes16_64-sparsity-batchtopk",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a sweep needs an axis"),
        (["--sae.k", "16"], "a sweep needs an axis"),
        (["--sae.kk", "16,32"], r"--sae.kk: a sweep has no such axis; did you mean --sae.k\?"),
        (["sae.k", "16,32"], "sae.k: a sweep has no such axis"),
        (["--sae.k"], "--sae.k: expected a value"),
        (["--sae.k", "16,,32"], "a value is empty"),
        (["--sae.k", "16,16"], "stands there twice"),
        (["--sae.k", "16,many"], "sae.k: input should be a valid integer"),
        (["--sae.k", "4,64", "--sae.n", "32", "--train.k_aux", "8"], "sae.k = 64 is larger than sae.n = 32"),
        (["--train.batch", "512,1024"], "--train.batch: cannot be an axis"),
        (["--capture.dtype", "float32,bfloat16"], "--capture.dtype: cannot be an axis"),
        (["--train.mesh", "1,2"], "--train.mesh: cannot be an axis"),
        (["--name", "a,b"], "--name: cannot be an axis"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        axes.read(Recipe(), arguments)


def test_a_mesh_is_not_of_a_sweep() -> None:
    base = Recipe.model_validate({"train": {"mesh": [2, 4]}})
    with pytest.raises(RecipeError, match=r"train.mesh = \[2, 4\] is of ranks that train one SAE together"):
        axes.read(base, ["--sae.k", "16,32"])
    assert len(axes.read(base, ["--sae.k", "16,32", "--train.mesh", "none"]).members) == 2
