"""Folders that cannot be read: one line each, naming the file, what stands there, and what was expected."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_saes import D, K, N
from safetensors.torch import load_file, save_file

from monosem.errors import SaeError
from monosem.sae import formats

LINEAR = {"encoder.weight": (N, D), "encoder.bias": (N,), "b_dec": (D,)}
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "saelens": {"W_enc": (D, N), "b_enc": (N,), "W_dec": (N, D), "b_dec": (D,), "threshold": (N,)},
    "sparsify": {**LINEAR, "W_dec": (N, D)},
    "dictionary_learning": {**LINEAR, "decoder.weight": (D, N), "k": (), "threshold": ()},
    "openai": {"encoder.weight": (N, D), "latent_bias": (N,), "decoder.weight": (D, N), "pre_bias": (D,)},
    "gemma_scope": {"W_enc": (D, N), "b_enc": (N,), "W_dec": (N, D), "b_dec": (D,), "threshold": (N,)},
    "llama_scope": {"encoder.weight": (N, D), "encoder.bias": (N,), "decoder.weight": (D, N), "decoder.bias": (D,)},
}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "saelens": ("cfg.json", {"architecture": "jumprelu", "d_in": D, "d_sae": N}),
    "sparsify": ("cfg.json", {"d_in": D, "k": K, "num_latents": N}),
    "dictionary_learning": ("config.json", {"trainer": {"dict_class": "BatchTopKSAE", "k": K}}),
    "llama_scope": ("hyperparams.json", {"act_fn": "jumprelu", "jump_relu_threshold": 0.2, "d_model": D, "d_sae": N}),
}
WEIGHTS = {
    "saelens": "sae_weights.safetensors",
    "sparsify": "sae.safetensors",
    "dictionary_learning": "ae.pt",
    "openai": "0.pt",
    "gemma_scope": "params.npz",
    "llama_scope": "final.safetensors",
}


def tensors_of(name: str) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {key: torch.rand(shape, generator=draw) for key, shape in SHAPES[name].items()}


def save(folder: Path, name: str, tensors: dict[str, Any]) -> None:
    path = folder / WEIGHTS[name]
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    elif path.suffix == ".npz":
        np.savez(path, **{key: np.asarray(tensor) for key, tensor in tensors.items()})  # pyright: ignore[reportArgumentType]
    else:
        torch.save(tensors, path)


def make(folder: Path, name: str) -> Path:
    folder.mkdir()
    if name in SETTINGS:
        file, settings = SETTINGS[name]
        (folder / file).write_text(json.dumps(settings))
    save(folder, name, tensors_of(name))
    return folder


def say(folder: Path, name: str, **changes: Any) -> None:
    path = folder / SETTINGS[name][0]
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", SHAPES)
def test_each_is_told_by_its_files(tmp_path: Path, name: str) -> None:
    assert formats.detect(make(tmp_path / "sae", name)) == name
    assert formats.read(tmp_path / "sae", k=K).format == name


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, shapes in SHAPES.items() for key in shapes if key != "k"]
)
def test_every_tensor_that_is_missing_bent_or_not_finite_is_named(tmp_path: Path, name: str, key: str) -> None:
    folder, whole = make(tmp_path / "sae", name), tensors_of(name)
    where = rf"{WEIGHTS[name]}: key '{key}' "
    save(folder, name, {other: tensor for other, tensor in whole.items() if other != key})
    with pytest.raises(SaeError, match=where + r"is missing, expected shape \["):
        formats.read(folder, k=K)
    save(folder, name, whole | {key: torch.rand(2, 2, 2)})
    with pytest.raises(SaeError, match=where + r"has shape \[2, 2, 2\], expected \["):
        formats.read(folder, k=K)
    save(folder, name, whole | {key: torch.full_like(whole[key], torch.nan)})
    with pytest.raises(SaeError, match=where + "holds values that are not finite"):
        formats.read(folder, k=K)


@pytest.mark.parametrize("name", SHAPES)
def test_a_file_that_is_cut_short_is_damaged(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / "sae", name) / WEIGHTS[name]
    for part in (path.read_bytes()[:-60], b"", b"no tensors at all, " * 9):
        path.write_bytes(part)
        with pytest.raises(SaeError, match=rf"{path.name}: damaged"):
            formats.read(tmp_path / "sae", k=K)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    ("text", "message"), [("{", "not JSON"), ("[]", "expected a JSON object"), ("\xff", "not JSON")]
)
def test_settings_that_are_no_json_object(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = make(tmp_path / "sae", name) / SETTINGS[name][0]
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SaeError, match=rf"{path.name}: {message}"):
        formats.read(tmp_path / "sae", k=K)


class Trap:
    """Unpickling it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["dictionary_learning", "openai"])
def test_pickles_run_nothing(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path / "sae", name)
    save(folder, name, {**tensors_of(name), "extra": Trap(tmp_path / "sprung")})
    with pytest.raises(SaeError, match="holds more than tensors, which could run code when read"):
        formats.read(folder, k=K)
    assert not (tmp_path / "sprung").exists()
    torch.save(torch.rand(3), folder / WEIGHTS[name])
    with pytest.raises(SaeError, match="holds a Tensor, expected tensors by name"):
        formats.read(folder, k=K)


def test_archives_of_objects_are_not_read(tmp_path: Path) -> None:
    folder = make(tmp_path / "sae", "gemma_scope")
    np.savez(folder / "params.npz", W_enc=np.array([Trap(tmp_path / "sprung")], dtype=object))
    with pytest.raises(SaeError, match=r"params.npz: damaged, or no archive of numbers"):
        formats.read(folder, k=K)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "saelens",
            {"architecture": "gated"},
            "architecture is 'gated', which computes otherwise .* understood: standard",
        ),
        ("saelens", {"normalize_activations": "constant_norm_rescale"}, "expected none, expected_average_only_in or"),
        (
            "saelens",
            {"normalize_activations": "covariance_whitening"},
            "normalize_activations is 'covariance_whitening'",
        ),
        ("saelens", {"architecture": "topk"}, "key 'k' is missing"),
        ("saelens", {"architecture": "topk", "k": N + 1}, "k = 41 is larger than n = 40"),
        ("saelens", {"architecture": "topk", "k": "many"}, "key 'k' is 'many', expected a number"),
        ("saelens", {"architecture": "topk", "k": 2.5}, "key 'k' is 2.5, expected a whole number"),
        ("saelens", {"d_sae": N + 1}, rf"key 'W_enc' has shape \[{D}, {N}\], expected \[{D}, {N + 1}\]"),
        ("sparsify", {"activation": "groupmax"}, "not within groups; expected topk"),
        ("sparsify", {"signed": True}, "signed is True"),
        ("sparsify", {"num_latents": 0, "expansion_factor": 2}, rf"'encoder.weight' .* expected \[{2 * D}, {D}\]"),
        ("sparsify", {"k": None}, "keys 'd_in' and 'k' are expected"),
        ("dictionary_learning", {"trainer": {"dict_class": "GatedAutoEncoder"}}, "dict_class is 'GatedAutoEncoder'"),
        ("dictionary_learning", {"trainer": None}, "dict_class is '', which computes otherwise"),
        ("llama_scope", {"act_fn": "gelu"}, "act_fn is 'gelu': expected relu, topk or jumprelu"),
        ("llama_scope", {"use_glu_encoder": True}, "our encoder has no gate"),
        ("llama_scope", {"norm_activation": "token-wise"}, "norm_activation is 'token-wise'"),
        ("llama_scope", {"norm_activation": "dataset-wise"}, "expected the norms `in` and `out`"),
        ("llama_scope", {"jump_relu_threshold": -1}, "jump_relu_threshold is -1"),
        ("llama_scope", {"jump_relu_threshold": "high"}, "'high', expected a number"),
        (
            "llama_scope",
            {"hook_point_in": "blocks.1.hook_mlp_in", "hook_point_out": "hook_embed"},
            "no hook point that",
        ),
    ],
)
def test_what_our_model_cannot_compute_is_refused(tmp_path: Path, name: str, changes: dict, message: str) -> None:
    folder = make(tmp_path / "sae", name)
    say(folder, name, **changes)
    with pytest.raises(SaeError, match=message):
        formats.read(folder, k=None if "k" in changes else K)


def test_a_skip_beside_layer_normalisation_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "sae", "saelens")
    say(folder, "saelens", architecture="skip_transcoder", normalize_activations="layer_norm")
    path = folder / WEIGHTS["saelens"]
    save_file({**load_file(path), "W_skip": torch.rand(D, D)}, path)
    with pytest.raises(SaeError, match="its skip reads what is not normalised"):
        formats.read(folder, k=K)


@pytest.mark.parametrize(("name", "key"), [("saelens", "scaling_factor"), ("gemma_scope", "scaling_factor")])
def test_finetuned_scales_are_refused_unless_they_do_nothing(tmp_path: Path, name: str, key: str) -> None:
    folder, whole = make(tmp_path / "sae", name), tensors_of(name)
    save(folder, name, whole | {key: torch.ones(N)})
    formats.read(folder, k=K)
    save(folder, name, whole | {key: torch.full((N,), 1.5)})
    with pytest.raises(SaeError, match=f"key '{key}' is not all ones"):
        formats.read(folder, k=K)


def test_a_threshold_that_was_never_set_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "sae", "dictionary_learning")
    save(folder, "dictionary_learning", tensors_of("dictionary_learning") | {"threshold": torch.tensor(-1.0)})
    with pytest.raises(SaeError, match=r"threshold is -1\.0: training ended before it was first set"):
        formats.read(folder)


@pytest.mark.parametrize(
    ("activation", "state"), [("Sigmoid", {}), ("TopK", {"k": K, "postact_fn": "Identity"}), ("TopK", {"k": "x"})]
)
def test_activations_of_openai_that_we_do_not_have(tmp_path: Path, activation: str, state: dict) -> None:
    folder, whole = make(tmp_path / "sae", "openai"), tensors_of("openai")
    save(folder, "openai", {**whole, "activation": activation, "activation_state_dict": state})
    with pytest.raises(SaeError, match=r"0\.pt: activation"):
        formats.read(folder)


def test_transcoders_of_gemma_scope_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "gemma-scope-2b-pt-transcoders", "gemma_scope")
    with pytest.raises(SaeError, match="which reads a norm's output before the norm's weights"):
        formats.read(folder, k=K)


def test_k_is_asked_for_where_no_file_says_it(tmp_path: Path) -> None:
    for name in ("saelens", "gemma_scope", "openai"):
        with pytest.raises(SaeError, match=rf"{name}: nothing says how many latents are active.*\(--k\)"):
            formats.read(make(tmp_path / name, name))


def test_folders_of_no_known_format(tmp_path: Path) -> None:
    with pytest.raises(SaeError, match="nowhere: no such folder"):
        formats.read(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SaeError, match=r"no SAE of a known format; found: nothing; understood: llama_scope \("):
        formats.read(empty)
    (tmp_path / "layers.0").mkdir()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        SaeError, match=r"found: config.json, empty/, layers.0/; .* sparsify \(cfg.json \+ sae.safetensors\)"
    ):
        formats.read(tmp_path)
    for number in range(12):
        (tmp_path / f"{number:02}.txt").touch()
    with pytest.raises(SaeError, match=r"found: 00.txt, .* and 7 more; understood"):
        formats.read(tmp_path)


def test_what_stands_under_our_key_must_be_of_its_kind(tmp_path: Path) -> None:
    folder = make(tmp_path / "sae", "sparsify")
    say(folder, "sparsify", monosem={"norm_threshold": "large"})
    with pytest.raises(SaeError, match="key 'norm_threshold' is 'large', expected a number"):
        formats.read(folder)
    say(folder, "sparsify", monosem={"prefixes": [N + 1]})
    with pytest.raises(SaeError, match="sae: prefixes ="):
        formats.read(folder)
