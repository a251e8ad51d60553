import pytest

from monosem.errors import ModelError
from monosem.lm.hookpoints import SITES, HookPoint


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("suffix", ["", ".norm"])
def test_names_read_back_as_written(site: str, suffix: str) -> None:
    name = f"12.{site}{suffix}"
    point = HookPoint.parse(name, n_layers=13)
    assert str(point) == name
    assert (point.layer, point.site, point.norm) == (12, site, bool(suffix))


def test_a_place_between_two_blocks_has_one_canonical_name() -> None:
    assert str(HookPoint.parse("7.resid_pre").canonical) == "6.resid_post"
    assert str(HookPoint.parse("7.resid_pre.norm").canonical) == "6.resid_post.norm"
    assert str(HookPoint.parse("0.resid_pre").canonical) == "0.resid_pre"
    assert str(HookPoint.parse("7.resid_mid").canonical) == "7.resid_mid"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("30.resid_post", "layers 0 to 29"),
        ("20.residpost", "did you mean 20.resid_post?"),
        ("20.resid_post.nrm", "did you mean 20.resid_post.norm?"),
        ("20.mlp", "did you mean 20.mlp_out?"),
        ("resid_post", "LAYER.NAME"),
        ("-1.resid_post", "LAYER.NAME"),
        ("20", "LAYER.NAME"),
        ("", "LAYER.NAME"),
    ],
)
def test_wrong_names_are_told_what_is_right(name: str, said: str) -> None:
    with pytest.raises(ModelError) as error:
        HookPoint.parse(name, n_layers=30)
    assert said in str(error.value)
    assert repr(name) in str(error.value)
    assert "\n" not in str(error.value)
