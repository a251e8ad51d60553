"""SAEs as other libraries leave them: what they compute by their own formulas, our model computes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_saes import Computed, D, K, N, activations, active, assert_same, ours
from safetensors.torch import save_file
from torch import Tensor

from monosem.errors import SaeError
from monosem.sae import files, formats


def weights(seed: int = 0, *, unit: bool = True, d_out: int = D, spread: float = 1.0) -> dict[str, Tensor]:
    """W_enc [n, d], b_enc, W_dec [n, d_out], b_dec, threshold [n], all in raw units."""
    draw = torch.Generator().manual_seed(seed)
    W_dec = torch.nn.functional.normalize(torch.randn(N, d_out, generator=draw))
    return {
        "W_enc": torch.randn(N, D, generator=draw) / 4,
        "b_enc": torch.randn(N, generator=draw),
        "W_dec": W_dec if unit else W_dec * (0.4 + spread * torch.rand(N, 1, generator=draw)),
        "b_dec": 4 * torch.randn(d_out, generator=draw),
        "threshold": 0.5 + 2 * torch.rand(N, generator=draw),
    }


def folder_of(path: Path, settings: dict[str, Any] | None, name: str, tensors: dict[str, Any]) -> Path:
    """A folder with a JSON file and one of tensors."""
    path.mkdir(parents=True, exist_ok=True)
    if settings is not None:
        file = {".safetensors": "cfg.json", ".pt": "config.json"}[Path(name).suffix]
        (path / file).write_text(json.dumps(settings))
    if name.endswith(".pt"):
        torch.save(tensors, path / name)
    else:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path / name)
    return path


def saelens(path: Path, found: dict[str, Tensor], **settings: Any) -> Path:
    tensors = {**found, "W_enc": found["W_enc"].T}
    if "jumprelu" not in settings.get("architecture", ""):
        del tensors["threshold"]
    return folder_of(path, {"d_in": D, "d_sae": N, **settings}, "sae_weights.safetensors", tensors)


def through(found: dict[str, Tensor], x: Tensor, sparsity: str, *, centred: bool) -> Computed:
    """In float64, rows of W_dec as they are."""
    wide = {name: tensor.double() for name, tensor in found.items()}
    read = x.double() - wide["b_dec"] if centred else x.double()
    codes = active(read @ wide["W_enc"].T + wide["b_enc"], sparsity, K, wide.get("threshold"))
    x_hat = codes @ wide["W_dec"] + wide["b_dec"]
    return Computed(codes, x_hat + x.double() @ wide["W_skip"].T if "W_skip" in wide else x_hat)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(
    ("architecture", "sparsity"),
    [("topk", "topk"), ("abstopk", "abstopk"), ("jumprelu", "jumprelu"), ("standard", "relu")],
)
def test_saelens(tmp_path: Path, architecture: str, sparsity: str, centred: bool) -> None:
    found, x = weights(), activations()
    if sparsity == "relu":
        del found["threshold"]
        found["threshold"] = torch.zeros(N)
    path = saelens(
        tmp_path,
        found,
        architecture=architecture,
        k=K,
        apply_b_dec_to_input=centred,
        normalize_activations="expected_average_only_in",
        metadata={"model_name": "gpt2-small", "hook_name": "blocks.7.hook_resid_pre"},
    )
    sae = formats.read(path).sae
    assert (sae.config.model, sae.config.hook_point) == ("gpt2-small", "7.resid_pre")
    assert_same(ours(sae, x), through(found, x, sparsity, centred=centred))


def test_saelens_with_rescaled_activations(tmp_path: Path) -> None:
    """Chosen by pre-activations times the norms of their decoder rows, which is TopK with rows of norm 1."""
    found, x = weights(unit=False), activations()
    path = saelens(tmp_path, found, architecture="topk", k=K, rescale_acts_by_decoder_norm=True)
    norms = found["W_dec"].double().norm(dim=1)
    pre = (x.double() - found["b_dec"]) @ found["W_enc"].double().T + found["b_enc"]
    codes = active(pre * norms, "topk", K, None)
    assert_same(
        ours(formats.read(path).sae, x), Computed(codes, (codes / norms) @ found["W_dec"].double() + found["b_dec"])
    )


def test_saelens_checkpoints_of_batchtopk_with_rescaled_activations(tmp_path: Path) -> None:
    """Their threshold is held against what was rescaled already."""
    found, x = weights(unit=False), activations()
    tensors = {**found, "W_enc": found["W_enc"].T, "topk_threshold": torch.tensor(1.25)}
    settings = {"architecture": "batchtopk", "k": K, "rescale_acts_by_decoder_norm": True}
    sae = formats.read(folder_of(tmp_path, settings, "sae_weights.safetensors", tensors)).sae
    norms = found["W_dec"].double().norm(dim=1)
    pre = (x.double() - found["b_dec"]) @ found["W_enc"].double().T + found["b_enc"]
    codes = active(pre * norms, "jumprelu", K, torch.tensor(1.25))
    assert sae.config.sparsity == "batchtopk"
    assert_same(ours(sae, x), Computed(codes, (codes / norms) @ found["W_dec"].double() + found["b_dec"]))


def test_saelens_before_version_6(tmp_path: Path) -> None:
    found = weights()
    path = saelens(
        tmp_path,
        found,
        activation_fn_str="topk",
        activation_fn_kwargs={"k": K},
        normalize_activations=False,
        model_name="org/lm",
        hook_point="blocks.5.hook_mlp_out",
    )
    sae = formats.read(path).sae
    assert (sae.config.sparsity, sae.config.k, sae.config.model, sae.config.hook_point) == (
        "topk", K, "hf:org/lm", "5.mlp_out",
    )  # fmt: skip
    assert_same(ours(sae, activations()), through(found, activations(), "topk", centred=True))


def test_saelens_checkpoints_of_batchtopk(tmp_path: Path) -> None:
    found = weights()
    tensors = {**found, "W_enc": found["W_enc"].T, "topk_threshold": torch.tensor(1.25, dtype=torch.float64)}
    settings = {"architecture": "batchtopk", "k": K, "d_in": D, "d_sae": N}
    sae = formats.read(folder_of(tmp_path, settings, "sae_weights.safetensors", tensors)).sae
    assert sae.config.sparsity == "batchtopk"
    found["threshold"] = torch.full((N,), 1.25)
    assert_same(ours(sae, activations()), through(found, activations(), "jumprelu", centred=True))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("gate", ["", "jumprelu_"])
def test_saelens_transcoders(tmp_path: Path, gate: str, skip: bool) -> None:
    found, x = weights(d_out=7), activations()
    if skip:
        found["W_skip"] = torch.randn(7, D, generator=torch.Generator().manual_seed(1))
    if not gate:
        found["threshold"] = torch.zeros(N)
    metadata = {"hook_name": "blocks.2.hook_resid_mid", "hook_name_out": "blocks.2.hook_mlp_out"}
    name = gate + "skip_" * skip + "transcoder"
    path = saelens(tmp_path, found, architecture=name, d_out=7, apply_b_dec_to_input=False, metadata=metadata)
    sae = formats.read(path, k=K).sae
    assert (sae.config.hook_point, sae.config.target_hook_point) == ("2.resid_mid", "2.mlp_out")
    assert_same(ours(sae, x), through(found, x, "jumprelu", centred=False))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("transcode", [False, True])
def test_sparsify(tmp_path: Path, transcode: bool, skip: bool) -> None:
    found, x = weights(unit=not transcode), activations()
    if skip:
        found["W_skip"] = torch.randn(D, D, generator=torch.Generator().manual_seed(1))
    tensors = {"encoder.weight": found["W_enc"], "encoder.bias": found["b_enc"], "W_dec": found["W_dec"]}
    tensors |= {name: found[name] for name in ("b_dec", "W_skip") if name in found}
    settings = {"d_in": D, "k": K, "num_latents": N, "transcode": transcode}
    sae = formats.read(folder_of(tmp_path / "layers.4.mlp", settings, "sae.safetensors", tensors)).sae
    transcodes = transcode or skip
    place = ("4.resid_mid.norm", "4.mlp_out") if transcodes else ("4.mlp_out", "")
    assert (sae.config.hook_point, sae.config.target_hook_point) == place
    assert sae.config.skip == skip
    del found["threshold"]
    assert_same(ours(sae, x), through(found, x, "topk", centred=not transcode))


LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc"}


def dictionary_learning(path: Path, kind: str, found: dict[str, Tensor], **extra: Any) -> Path:
    trainer = {"dict_class": kind, "layer": 6, "lm_name": "org/lm", **extra.pop("trainer", {})}
    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        tensors: dict[str, Any] = {**found, "W_enc": found["W_enc"].T}
    else:
        bias = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}.get(kind, "b_dec")
        tensors = {theirs: found[name] for theirs, name in LINEAR.items()}
        tensors |= {"decoder.weight": found["W_dec"].T, bias: found["b_dec"]}
    return folder_of(path, {"trainer": trainer, "buffer": {"ctx_len": 64}}, "ae.pt", {**tensors, **extra})


@pytest.mark.parametrize(
    ("kind", "sparsity", "centred"),
    [
        ("AutoEncoder", "relu", True),
        ("AutoEncoderNew", "relu", False),
        ("AutoEncoderTopK", "topk", True),
        ("BatchTopKSAE", "batchtopk", True),
        ("MatryoshkaBatchTopKSAE", "batchtopk", True),
        ("JumpReluAutoEncoder", "jumprelu", False),
    ],
)
def test_dictionary_learning(tmp_path: Path, kind: str, sparsity: str, centred: bool) -> None:
    found, x = weights(), activations()
    extra: dict[str, Any] = {}
    if sparsity == "relu":
        found["threshold"] = torch.zeros(N)
    if "TopK" in kind:
        extra = {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(1.25)}
        found["threshold"] = torch.full((N,), 1.25)
    if kind == "MatryoshkaBatchTopKSAE":
        extra["group_sizes"] = torch.tensor([10, 10, N - 20])
    sae = formats.read(dictionary_learning(tmp_path, kind, found, **extra), k=None if "TopK" in kind else K).sae
    assert (sae.config.sparsity, sae.config.k) == (sparsity, K)
    assert (sae.config.model, sae.config.hook_point) == ("hf:org/lm", "6.resid_post")
    assert sae.config.prefixes == ((10, 20) if "group_sizes" in extra else ())
    assert_same(ours(sae, x), through(found, x, "topk" if sparsity == "topk" else "jumprelu", centred=centred))


def test_dictionary_learning_s_first_class_is_read_with_unit_rows(tmp_path: Path) -> None:
    """Even where all rows have one norm, which need not go into the codes: its own loader does the same."""
    found, x = weights(unit=False, spread=0), activations()
    found["threshold"] = torch.zeros(N)
    expected = through(found, x, "relu", centred=True)
    sae = formats.read(dictionary_learning(tmp_path, "AutoEncoder", found), k=K).sae
    assert_same(ours(sae, x), expected._replace(codes=0.4 * expected.codes))


@pytest.mark.parametrize("topk", [True, False])
def test_openai(tmp_path: Path, topk: bool) -> None:
    found, x = weights(), activations()
    tensors: dict[str, Any] = {"encoder.weight": found["W_enc"], "latent_bias": found["b_enc"]}
    tensors |= {"decoder.weight": found["W_dec"].T, "pre_bias": found["b_dec"], "stats_last_nonzero": torch.zeros(N)}
    tensors |= {"activation": "TopK" if topk else "ReLU"}
    tensors |= {"activation_state_dict": {"k": K, "postact_fn": "ReLU"} if topk else {}}
    folder_of(tmp_path, None, "7.pt", tensors)
    found["threshold"] = torch.zeros(N)
    for place in (tmp_path, tmp_path / "7.pt"):
        sae = formats.read(place, k=None if topk else K, hook_point="7.resid_post").sae
        assert (sae.config.k, sae.config.hook_point) == (K, "7.resid_post")
        if not topk:
            assert_same(ours(sae, x), through(found, x, "relu", centred=True))
            continue
        mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        codes, y_hat = through(found, (x - mean) / (std + 1e-5), "topk", centred=True)
        assert_same(ours(sae, x), Computed(codes, y_hat * std + mean))


def test_gemma_scope(tmp_path: Path) -> None:
    found, x = weights(unit=False), activations()
    path = tmp_path / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_7"
    path.mkdir(parents=True)
    np.savez(
        path / "params.npz", **{**{name: tensor.numpy() for name, tensor in found.items()}, "W_enc": found["W_enc"].T}
    )
    imported = formats.read(path)
    config = imported.sae.config
    assert (imported.format, config.sparsity, config.k) == ("gemma_scope", "jumprelu", 7)
    assert (config.model, config.hook_point) == ("hf:google/gemma-2-2b", "20.resid_post")
    assert any("decoder rows have norms from 0.4" in note and "codes are so many" in note for note in imported.notes)
    expected = through(found, x, "jumprelu", centred=False)
    assert_same(ours(imported.sae, x), expected._replace(codes=expected.codes * found["W_dec"].norm(dim=1)))


@pytest.mark.parametrize("target", ["blocks.3.hook_resid_post", "blocks.3.hook_mlp_out"])
def test_llama_scope(tmp_path: Path, target: str) -> None:
    """Its weights belong to scaled activations; the threshold to raw ones, after the decoder's norms."""
    found, x = weights(unit=False), activations()
    norms = {"in": 30.0, "out": 30.0 if "resid" in target else 12.0}
    settings = {
        "d_model": D, "d_sae": N, "top_k": K, "act_fn": "jumprelu", "jump_relu_threshold": 3.0,
        "norm_activation": "dataset-wise", "dataset_average_activation_norm": norms, "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False, "sparsity_include_decoder_norm": True,
        "hook_point_in": "blocks.3.hook_resid_post", "hook_point_out": target,
    }  # fmt: skip
    tensors = {"encoder.weight": found["W_enc"], "encoder.bias": found["b_enc"]}
    tensors |= {"decoder.weight": found["W_dec"].T, "decoder.bias": found["b_dec"]}
    (tmp_path / "hyperparams.json").write_text(json.dumps(settings))
    folder_of(tmp_path / "checkpoints", None, "final.safetensors", tensors)
    sae = formats.read(tmp_path).sae
    assert (sae.config.k, sae.config.hook_point, sae.config.transcodes) == (K, "3.resid_post", "mlp" in target)
    read_by, written_by = D**0.5 / norms["in"], D**0.5 / norms["out"]
    pre = (x.double() * read_by) @ found["W_enc"].double().T + found["b_enc"]
    rows = found["W_dec"].double() * read_by / written_by
    codes = active(pre / read_by * rows.norm(dim=1), "jumprelu", K, torch.tensor(3.0))
    assert_same(ours(sae, x), Computed(codes, codes / rows.norm(dim=1) @ rows + found["b_dec"].double() / written_by))


def test_half_precision_is_read_as_it_is(tmp_path: Path) -> None:
    found = {name: tensor.bfloat16() for name, tensor in weights().items()}
    sae = formats.read(saelens(tmp_path, found, architecture="topk", k=K)).sae
    assert sae.W_enc.dtype == torch.float32
    assert_same(ours(sae, activations()), through(found, activations(), "topk", centred=True))


def test_what_the_caller_says_of_its_place_counts(tmp_path: Path) -> None:
    found = weights()
    path = saelens(tmp_path, found, architecture="topk", k=K, metadata={"hook_name": "blocks.7.hook_resid_pre"})
    config = formats.read(path, model="hf:org/other", hook_point="1.z").sae.config
    assert (config.model, config.hook_point) == ("hf:org/other", "1.z")
    with pytest.raises(SaeError, match=rf"k = 6 was given, and its files say {K}; leave k out"):
        formats.read(path, k=6)


def test_what_is_read_is_an_sae_of_ours(tmp_path: Path) -> None:
    sae = formats.read(saelens(tmp_path / "theirs", weights(), architecture="jumprelu"), k=K).sae
    files.save(sae, tmp_path / "ours")
    assert torch.equal(files.load(tmp_path / "ours")(activations()).x_hat, sae(activations()).x_hat)
    with pytest.raises(SaeError, match=r"this is an SAE of monosem's already; load_sae\("):
        formats.read(tmp_path / "ours")
