"""Files of edits: there and back, by hand, and every mistake as one line that names the file."""

import tomllib

import pytest

from monosem.completion import SteeringSet
from monosem.errors import RecipeError
from monosem.steering import Edit

EDITS = (Edit(896, 20.0), Edit(3, 2.0, "clamp", "max"), Edit(7, -0.125, "scale"), Edit(5, 0.0, "ablate"))


@pytest.mark.parametrize("steering", [SteeringSet(), SteeringSet(EDITS), SteeringSet(EDITS[:1], replace=True)])
def test_there_and_back(steering, tmp_path):
    steering.save(tmp_path / "set.toml")
    assert SteeringSet.load(tmp_path / "set.toml") == steering
    assert [file.name for file in tmp_path.iterdir()] == ["set.toml"]


def test_the_file_is_made_to_be_edited(tmp_path):
    SteeringSet(EDITS[:2]).save(tmp_path / "set.toml")
    text = (tmp_path / "set.toml").read_text()
    assert text == (
        'replace = false\n\n[[edit]]\nlatent = 896\nvalue = 20.0\nmode = "add"\n'
        '\n[[edit]]\nlatent = 3\nmax = 2.0\nmode = "clamp"\n'
    )
    assert tomllib.loads(text)["edit"][1]["max"] == 2.0


def test_the_short_forms(tmp_path):
    file = tmp_path / "set.toml"
    file.write_text('[[edit]]\nlatent = 1\nvalue = 2\n[[edit]]\nlatent = 2\nmode = "ablate"\n')
    assert SteeringSet.load(file) == SteeringSet((Edit(1, 2.0), Edit(2, 0.0, "ablate")))


def test_an_edit_takes_the_place_of_the_one_of_its_latent():
    changed = SteeringSet(EDITS).updated([Edit(3, 9.0), Edit(4, 1.0)])
    assert changed.edits == (EDITS[0], Edit(3, 9.0), EDITS[2], EDITS[3], Edit(4, 1.0))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[edit]]\nlatnt = 3\nvalue = 1", "edit 0: unknown key 'latnt'; did you mean 'latent'?"),
        ("[[edits]]\nlatent = 3", "unknown key 'edits'; did you mean 'edit'?"),
        ("zzz = 1", "unknown key 'zzz'; there are replace, edit"),
        ("[[edit]]\nvalue = 3", "edit 0: latent is None, expected the number of a latent"),
        ("[[edit]]\nlatent = true\nvalue = 3", "latent is True"),
        ("[[edit]]\nlatent = -1\nvalue = 3", "latent is -1"),
        ("[[edit]]\nlatent = 1", "expected either value or max, has neither"),
        ("[[edit]]\nlatent = 1\nvalue = 1\nmax = 1", "has value and max"),
        ('[[edit]]\nlatent = 1\nvalue = "much"', "value is 'much', expected a number"),
        ("[[edit]]\nlatent = 1\nvalue = nan", "not a finite number"),
        ('[[edit]]\nlatent = 1\nvalue = 1\nmode = "push"', "mode 'push' is not known; expected add, clamp"),
        ('[[edit]]\nlatent = 1\nmax = 1\nmode = "scale"', "scale takes a factor"),
        ("edit = 3", "expected [[edit]] tables"),
        ("replace = 1", "replace is 1, expected true or false"),
        ("[[edit", "cannot be read as TOML"),
    ],
)
def test_a_mistake_names_file_and_key(text, told, tmp_path):
    file = tmp_path / "set.toml"
    file.write_text(text)
    with pytest.raises(RecipeError) as error:
        SteeringSet.load(file)
    assert told in str(error.value)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(RecipeError, match="no such file"):
        SteeringSet.load(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="cannot be read"):
        SteeringSet.load(tmp_path)
    with pytest.raises(RecipeError, match="nothing was saved"):
        SteeringSet().save(tmp_path / "no" / "set.toml")
