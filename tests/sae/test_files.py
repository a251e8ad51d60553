"""Files of an SAE: the same bits back, the same bytes twice, and one clear line for whatever is wrong with them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from monosem.errors import SaeError
from monosem.sae import files
from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.sae.initialise import dataset_statistics


def make_sae(normalisation: str = "dataset", seed: int = 0) -> Autoencoder:
    statistics = dataset_statistics(torch.linspace(-1, 1, 6), torch.ones(6)) if normalisation == "dataset" else None
    config = SaeConfig(6, 20, 3, normalisation=normalisation, model="a model", hook_point="3.resid_post")  # pyright: ignore[reportArgumentType]
    return Autoencoder(config, torch.Generator().manual_seed(seed), statistics, torch.full((6,), 0.5))


@pytest.mark.parametrize("normalisation", ["layer", "dataset", "none"])
def test_what_is_saved_comes_back(tmp_path: Path, normalisation: str) -> None:
    sae, folder = make_sae(normalisation), tmp_path / "sae" / "final"
    files.save(sae, folder, {"steps": 7})
    loaded = files.load(folder)
    assert loaded.config == sae.config
    assert loaded.state_dict().keys() == sae.state_dict().keys()
    assert all(torch.equal(tensor, sae.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert files.read_config(folder) == sae.config
    assert files.read_metadata(folder) == {"steps": 7}


@pytest.mark.parametrize(("sparsity", "name"), [("jumprelu", "log_threshold"), ("batchtopk", "threshold")])
def test_thresholds_belong_to_the_file(tmp_path: Path, sparsity: str, name: str) -> None:
    sae = Autoencoder(SaeConfig(6, 20, 3, sparsity, "none", prefixes=(4, 9)), torch.Generator().manual_seed(0))
    getattr(sae, name).data.fill_(-0.75)
    files.save(sae, tmp_path / "sae")
    loaded = files.load(tmp_path / "sae")
    assert loaded.config == sae.config
    assert torch.equal(getattr(loaded, name), getattr(sae, name))
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(loaded(x).x_hat, sae(x).x_hat)
    tensors(tmp_path / "sae", **{name: None})
    with pytest.raises(SaeError, match=f"key '{name}' is missing"):
        files.load(tmp_path / "sae")


def test_saving_twice_writes_the_same_bytes_and_replaces(tmp_path: Path) -> None:
    files.save(make_sae(seed=1), tmp_path / "a")
    files.save(make_sae(), tmp_path / "a")
    files.save(make_sae(), tmp_path / "b")
    for name in (files.WEIGHTS, files.CONFIG):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_failed_save_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    files.save(make_sae(), folder, {"steps": 1})
    with pytest.raises(TypeError):
        files.save(make_sae(seed=1), folder, {"steps": object()})
    assert files.read_metadata(folder) == {"steps": 1}
    assert torch.equal(files.load(folder).W_dec, make_sae().W_dec)
    assert [path.name for path in tmp_path.iterdir()] == ["sae"]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "cfg.json").unlink(), "cfg.json: no such file"),
        (lambda folder: (folder / "sae.safetensors").unlink(), "sae.safetensors: no such file"),
        (lambda folder: (folder / "cfg.json").write_text("{"), "cfg.json: not JSON"),
        (lambda folder: (folder / "cfg.json").write_text("[]"), "cfg.json: expected a JSON object"),
        (lambda folder: edit(folder, schema_version=9), "schema_version is 9, expected 1"),
        (lambda folder: edit(folder, config={"d": 6}), "key 'config' must hold d, n, k"),
        (lambda folder: edit(folder, config={"d": 6, "n": 20, "k": 3, "x": 1}), "key 'config' must hold d, n, k"),
        (lambda folder: edit(folder, config={"d": 6, "n": 20, "k": 30}), "cfg.json: k = 30 is larger than n = 20"),
        (lambda folder: edit(folder, config={"d": "six", "n": 20, "k": 3}), "cfg.json: d = 'six'"),
        (lambda folder: truncate(folder), "sae.safetensors: damaged"),
        (lambda folder: tensors(folder, W_dec=torch.zeros(20, 5)), r"'W_dec' has shape \[20, 5\], expected \[20, 6\]"),
        (lambda folder: tensors(folder, b_enc=None), r"key 'b_enc' is missing, expected shape \[20\]"),
        (lambda folder: tensors(folder, mean=None), r"key 'mean' is missing, expected shape \[6\]"),
    ],
)
def test_damage_is_named(tmp_path: Path, break_it, message: str) -> None:
    files.save(make_sae(), tmp_path / "sae")
    break_it(tmp_path / "sae")
    with pytest.raises(SaeError, match=message):
        files.load(tmp_path / "sae")


def edit(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(content | changes))


def truncate(folder: Path) -> None:
    path = folder / "sae.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    path = folder / "sae.safetensors"
    content = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in content.items() if tensor is not None}, path)
