"""What is written for other libraries: read back the same, by us and by their formulas over the files themselves."""

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from drawn_saes import Computed, D, K, N, activations, active, assert_same, draw_sae, ours
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from monosem.errors import SaeError
from monosem.sae import formats
from monosem.sae.autoencoder import Autoencoder, Normalisation
from monosem.sae.formats.plain import Lengths
from monosem.sae.sparsity import SPARSITIES

TAKEN = {"sparsify": ("topk",), "dictionary_learning": ("topk", "batchtopk", "jumprelu", "relu"), "saelens": SPARSITIES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("written")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 999),
    st.sampled_from([(name, sparsity) for name, known in TAKEN.items() for sparsity in known]),
    st.sampled_from(["dataset", "none"]),
    st.sampled_from([(), (N // 4, N // 2)]),
)
def test_round_trips(
    folder: Path, seed: int, kind: tuple[str, str], normalisation: Normalisation, prefixes: tuple[int, ...]
) -> None:
    name, sparsity = kind
    sae = draw_sae(sparsity, normalisation, seed, prefixes=prefixes)
    notes = formats.write(sae, folder / name, name)  # pyright: ignore[reportArgumentType]
    assert any("with a norm over 2410" in note for note in notes)
    assert any("Matryoshka" in note for note in notes) == bool(prefixes)
    again = formats.read(folder / name)
    assert again.format == name
    assert again.sae.config == sae.config
    assert_same(ours(again.sae, activations(seed)), ours(sae, activations(seed)))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.integers(0, 999),
    st.sampled_from([("saelens", "relu"), ("saelens", "jumprelu"), ("saelens", "batchtopk"), ("sparsify", "topk")]),
    st.sampled_from(["dataset", "none"]),
    st.booleans(),
)
def test_round_trips_of_transcoders(
    folder: Path, seed: int, kind: tuple[str, str], normalisation: Normalisation, skip: bool
) -> None:
    name, sparsity = kind
    sae = draw_sae(sparsity, normalisation, seed, d_out=D if name == "sparsify" else 7, skip=skip)
    formats.write(sae, folder / name, name)  # pyright: ignore[reportArgumentType]
    again = formats.read(folder / name).sae
    assert again.config == sae.config
    assert_same(ours(again, activations(seed)), ours(sae, activations(seed)))


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_saelens_by_its_own_formula(tmp_path: Path, sparsity: str) -> None:
    sae, x = draw_sae(sparsity), activations()
    formats.write(sae, tmp_path / "sae", "saelens")
    config, tensors = (
        settings_of(tmp_path / "sae" / "cfg.json"),
        load_file(tmp_path / "sae" / "sae_weights.safetensors"),
    )
    expected = {"relu": "standard", "batchtopk": "jumprelu"}.get(sparsity, sparsity)
    assert (config["architecture"], config["d_in"], config["d_sae"]) == (expected, D, N)
    assert (config["normalize_activations"], config["apply_b_dec_to_input"]) == ("none", True)
    assert config.get("k") == (K if "topk" in expected else None)
    metadata = config["metadata"]
    assert int(metadata["sae_lens_version"].split(".")[0]) >= 6
    assert (metadata["model_name"], metadata["hook_name"]) == ("an/lm", "blocks.3.hook_resid_post")
    weights = {name: tensor.double() for name, tensor in tensors.items()}
    pre = (x.double() - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    codes = active(pre, sparsity, K, weights.get("threshold"))
    assert_same(Computed(codes, codes @ weights["W_dec"] + weights["b_dec"]), ours(sae, x))


def test_sparsify_by_its_own_formula(tmp_path: Path) -> None:
    sae, x = draw_sae(), activations()
    notes = formats.write(sae, tmp_path / "layers.3", "sparsify")
    assert "sparsify finds it by its folder's name: layers.3" in notes
    config, weights = (
        settings_of(tmp_path / "layers.3" / "cfg.json"),
        load_file(tmp_path / "layers.3" / "sae.safetensors"),
    )
    assert (config["d_in"], config["num_latents"], config["k"], config["activation"]) == (D, N, K, "topk")
    assert config["normalize_decoder"] is config["transcode"] is config["skip_connection"] is False
    assert_same(linear(weights, weights["b_dec"], weights["W_dec"], x), ours(sae, x))


def test_dictionary_learning_by_its_own_formula(tmp_path: Path) -> None:
    sae, x = draw_sae(), activations()
    formats.write(sae, tmp_path / "sae", "dictionary_learning")
    weights = torch.load(tmp_path / "sae" / "ae.pt", weights_only=True)
    trainer = settings_of(tmp_path / "sae" / "config.json")["trainer"]
    assert (trainer["dict_class"], trainer["k"], int(weights["k"])) == ("AutoEncoderTopK", K, K)
    assert (trainer["layer"], trainer["lm_name"], trainer["submodule_name"]) == (3, "an/lm", "resid_post_layer_3")
    assert_same(linear(weights, weights["b_dec"], weights["decoder.weight"].T, x), ours(sae, x))


@pytest.mark.parametrize(
    ("sparsity", "kind"),
    [("relu", "AutoEncoderNew"), ("jumprelu", "JumpReluAutoEncoder"), ("batchtopk", "BatchTopKSAE")],
)
def test_the_classes_of_dictionary_learning(tmp_path: Path, sparsity: str, kind: str) -> None:
    formats.write(draw_sae(sparsity), tmp_path / "sae", "dictionary_learning")
    assert settings_of(tmp_path / "sae" / "config.json")["trainer"]["dict_class"] == kind
    formats.write(draw_sae("batchtopk", prefixes=(10, N)), tmp_path / "sae", "dictionary_learning")
    assert settings_of(tmp_path / "sae" / "config.json")["trainer"]["dict_class"] == "MatryoshkaBatchTopKSAE"
    assert torch.load(tmp_path / "sae" / "ae.pt", weights_only=True)["group_sizes"].tolist() == [10, N - 10]


def linear(weights: dict[str, Tensor], bias: Tensor, W_dec: Tensor, x: Tensor) -> Computed:
    """ReLU, then the k largest, as both of them do it."""
    pre = (x.double() - bias.double()) @ weights["encoder.weight"].double().T + weights["encoder.bias"].double()
    codes = active(pre.relu(), "topk", K, None)
    return Computed(codes, codes @ W_dec.double() + bias.double())


def test_layer_normalisation_is_said_to_differ(tmp_path: Path) -> None:
    sae = draw_sae("topk", "layer")
    notes = formats.write(sae, tmp_path / "sae", "saelens")
    assert any("std + 1e-5" in note and "9e-6 / std" in note for note in notes)
    config, weights = (
        settings_of(tmp_path / "sae" / "cfg.json"),
        load_file(tmp_path / "sae" / "sae_weights.safetensors"),
    )
    assert config["normalize_activations"] == "layer_norm"
    for size, far in ((1.0, 2e-5), (0.1, 2e-4)):
        x = activations()
        x = x / x.std(1).median() * size
        mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        y = (x - mean) / (std + 1e-5)
        codes = active((y - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"], "topk", K, None)
        theirs = Computed(codes, (codes @ weights["W_dec"] + weights["b_dec"]) * std + mean)
        assert_same(ours(sae, x), theirs, far)
    assert_same(ours(formats.read(tmp_path / "sae").sae, activations()), ours(sae, activations()))


def test_unit_rows(tmp_path: Path) -> None:
    sae, x = draw_sae(), activations()
    formats.write(sae, tmp_path / "sae", "saelens", unit_rows=True)
    assert Lengths.of(load_file(tmp_path / "sae" / "sae_weights.safetensors")["W_dec"]).unit
    again, expected = ours(formats.read(tmp_path / "sae").sae, x), ours(sae, x)
    assert_same(again, expected._replace(codes=expected.codes / float(sae.scale)))
    formats.write(sae, tmp_path / "sparsify", "sparsify", unit_rows=True)
    assert settings_of(tmp_path / "sparsify" / "cfg.json")["normalize_decoder"] is True


def test_places_without_a_name_there(tmp_path: Path) -> None:
    sae = formats.read(written(tmp_path, draw_sae()), hook_point="3.resid_mid.norm").sae
    notes = formats.write(sae, tmp_path / "again", "saelens")
    assert "TransformerLens has no name for 3.resid_mid.norm: hook_name is empty" in notes
    assert settings_of(tmp_path / "again" / "cfg.json")["metadata"]["hook_name"] is None
    assert formats.read(tmp_path / "again").sae.config.hook_point == "3.resid_mid.norm"
    heads = formats.read(tmp_path / "again", hook_point="3.z").sae
    formats.write(heads, tmp_path / "again", "saelens")
    config = settings_of(tmp_path / "again" / "cfg.json")
    assert (config["metadata"]["hook_name"], config["reshape_activations"]) == ("blocks.3.attn.hook_z", "hook_z")


@pytest.mark.parametrize(
    ("name", "sparsity", "normalisation", "extra", "why"),
    [
        ("sparsify", "jumprelu", "none", {}, "TopK SAEs alone, and this one's sparsity is jumprelu"),
        ("sparsify", "abstopk", "none", {}, "sparsity is abstopk"),
        ("sparsify", "topk", "layer", {}, "`layer` normalisation cannot be folded"),
        ("sparsify", "topk", "none", {"d_out": 7}, "write as wide as they read"),
        ("dictionary_learning", "abstopk", "none", {}, "no codes below 0"),
        ("dictionary_learning", "topk", "layer", {}, "`layer` normalisation cannot be folded"),
        ("dictionary_learning", "topk", "none", {"d_out": D}, "no transcoders"),
        ("saelens", "topk", "none", {"d_out": D}, "no topk transcoder .* write it as sparsify"),
        ("saelens", "abstopk", "none", {"d_out": D}, "no abstopk transcoder"),
        ("saelens", "relu", "layer", {"d_out": D, "skip": True}, "a transcoder's skip reads what is not normalised"),
        ("npz", "topk", "none", {}, "format 'npz' is not known; expected saelens, sparsify, dictionary_learning"),
    ],
)
def test_what_they_cannot_compute_is_refused(tmp_path: Path, name, sparsity, normalisation, extra, why: str) -> None:
    with pytest.raises(SaeError, match=why):
        formats.write(draw_sae(sparsity, normalisation, **extra), tmp_path / "a" / "sae", name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(SaeError, match=r"holds other files \(thesis.tex\); name a new folder"):
        formats.write(draw_sae(), tmp_path, "saelens")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", get_args(formats.WriteFormat))
def test_writing_again_replaces_with_the_same_bytes(tmp_path: Path, name) -> None:
    before = {path.name: path.read_bytes() for path in written(tmp_path, draw_sae(seed=1), name).iterdir()}
    written(tmp_path, draw_sae(), name)
    assert {path.name: path.read_bytes() for path in written(tmp_path, draw_sae(seed=1), name).iterdir()} == before


def written(folder: Path, sae: Autoencoder, name: formats.WriteFormat = "saelens") -> Path:
    formats.write(sae, folder / "sae", name)
    return folder / "sae"


def settings_of(path: Path) -> dict:
    return json.loads(path.read_text())
