"""Transcoders: shapes, units, the skip, files; and that they learn a map that no affine one is."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from monosem.errors import SaeError
from monosem.evaluate.baselines import fit_affine, random_sae
from monosem.evaluate.reconstruction import measure, through
from monosem.kernels import cpu_select
from monosem.sae import files
from monosem.sae.autoencoder import Autoencoder, Normalisation, SaeConfig
from monosem.sae.initialise import dataset_statistics
from monosem.sae.losses import AuxK
from monosem.sae.objective import Objective
from monosem.store.pairs import Sample
from monosem.train.optim import OptimSettings
from monosem.train.resample import resample
from monosem.train.step import StepSettings, TrainStep
from monosem.train.validation import validate

D, D_OUT, N, K = 20, 12, 96, 6


def sample(rows: int, seed: int) -> Sample:
    """Sparse causes, seen through one dictionary and acting through another, beside what is linear in what is seen."""
    fixed = torch.Generator().manual_seed(0)
    seen = torch.nn.functional.normalize(torch.randn(40, D, generator=fixed))
    done, linear = torch.randn(40, D_OUT, generator=fixed), torch.randn(D, D_OUT, generator=fixed) / D**0.5
    draw = torch.Generator().manual_seed(100 + seed)
    causes = torch.rand(rows, 40, generator=draw) * (torch.rand(rows, 40, generator=draw) < 0.08)
    x = 3 * causes @ seen + 0.5
    return Sample(x, 200 * ((causes > 0.3).float() @ done + 2 * x @ linear) - 70)


def make(normalisation: Normalisation = "dataset", *, skip: bool = True, sparsity: str = "topk") -> Autoencoder:
    config = SaeConfig(
        D, N, K, sparsity, normalisation, hook_point="1.resid_mid.norm", d_out=D_OUT,
        target_hook_point="1.mlp_out", target_norm_threshold=9.5, skip=skip,
    )  # fmt: skip
    x, target = (dataset_statistics(part.mean(0), part.var(0)) for part in sample(2000, 50))
    return Autoencoder(
        config,
        torch.Generator().manual_seed(1),
        x if normalisation == "dataset" else None,
        encoder_norm=0.5,
        target=target if normalisation != "none" else None,
    )


def trained(steps: int = 300, *, skip: bool) -> TrainStep:
    optim = OptimSettings(lr=3e-3, schedule="constant", betas=(0.9, 0.99), eps=1e-8, total_steps=steps)
    step = TrainStep(make(skip=skip), StepSettings(optim, Objective(AuxK(8)), dead_window=2000))
    for number in range(steps):
        step.step(*sample(256, number))
    return step


@pytest.mark.parametrize("normalisation", ["dataset", "layer", "none"])
@pytest.mark.parametrize("skip", [False, True])
def test_the_parts_make_the_whole(normalisation: Normalisation, skip: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_select, "has_fast_bf16", lambda: False)  # which may choose another latent
    sae, (x, _) = make(normalisation, skip=skip), sample(30, 0)
    with torch.no_grad():
        for parameter in (sae.b_pre, sae.b_dec, *([sae.W_skip] if skip else [])):
            assert parameter is not None
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    x_hat, codes = sae(x)
    z = sae.normalise(x).z
    expected = codes.dense() @ sae.W_dec + sae.b_dec
    if sae.W_skip is not None:
        expected = expected + z @ sae.W_skip.T
    expected = expected / sae.output.scale + sae.output.mean
    assert x_hat.shape == (30, D_OUT)
    torch.testing.assert_close(x_hat, expected.detach(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(sae.reconstruct(x).x_hat, x_hat, rtol=1e-4, atol=1e-2)
    unit = torch.zeros(1, N)
    unit[0, 5] = 1.0
    torch.testing.assert_close(sae.direction(5), (unit @ sae.W_dec / sae.output.scale)[0].detach())


def test_a_skip_needs_what_was_encoded() -> None:
    sae, (x, _) = make(), sample(5, 0)
    with pytest.raises(SaeError, match=r"decode\(codes, x\)"):
        sae.decode(sae.encode(x))
    plain = make(skip=False)
    assert torch.equal(plain.decode(plain.encode(x)), plain(x).x_hat)


def test_it_is_written_and_read_whole(tmp_path: Path) -> None:
    for normalisation in ("dataset", "layer", "none"):
        for skip in (False, True):
            sae, (x, _) = make(normalisation, skip=skip, sparsity="batchtopk"), sample(20, 1)
            files.save(sae, tmp_path / "sae")
            again = files.load(tmp_path / "sae")
            assert again.config == sae.config
            assert again.state_dict().keys() == sae.state_dict().keys()
            assert torch.equal(again(x).x_hat, sae(x).x_hat)


def test_an_autoencoder_s_file_says_nothing_of_targets(tmp_path: Path) -> None:
    files.save(Autoencoder(SaeConfig(D, N, K, normalisation="none"), torch.Generator()), tmp_path / "sae")
    config = json.loads((tmp_path / "sae" / files.CONFIG).read_text())["config"]
    assert not set(files.TRANSCODER_KEYS) & set(config)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"d_out": 0}, "d_out = 0"),
        ({"d_out": None}, "belong to a transcoder"),
        ({"d_out": None, "skip": False}, "belong to a transcoder"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(SaeError, match=said):
        SaeConfig(**{"d": D, "n": N, "k": K, "d_out": 3, "skip": True, "target_hook_point": "1.mlp_out"} | changes)
    statistics = dataset_statistics(torch.zeros(D), torch.ones(D))
    with pytest.raises(SaeError, match="statistics of a target"):
        Autoencoder(make().config, torch.Generator(), statistics)
    with pytest.raises(SaeError, match=r"the target's mean has shape \[20\], expected \[12\]"):
        Autoencoder(make().config, torch.Generator(), statistics, target=statistics)
    with pytest.raises(SaeError, match="does not fit an autoencoder"):
        Autoencoder(SaeConfig(D, N, K), torch.Generator(), statistics).standardise_target(torch.zeros(2, D))


def test_it_learns_more_than_any_affine_map() -> None:
    fitted, held_out = [sample(512, number) for number in range(20)], [sample(2000, 900)]
    plain, skipping = (trained(skip=skip).sae for skip in (False, True))
    methods = {"affine": fit_affine(fitted), "plain": through(plain), "skip": through(skipping)}
    found = measure(held_out, methods | {"random": through(random_sae(skipping, 0, fitted[0]))})
    fvu = {name: figures.fvu for name, figures in found.items()}
    assert fvu["skip"] < 0.6 * fvu["affine"]
    assert fvu["skip"] < fvu["plain"] < fvu["random"]
    assert skipping.W_skip is not None
    assert float(skipping.W_skip.detach().norm()) > 1
    assert validate(skipping, held_out).fvu == pytest.approx(fvu["skip"], rel=0.02)


def test_the_best_affine_map_is_found() -> None:
    x = torch.randn(500, D, generator=torch.Generator().manual_seed(0)) + 40
    weight, bias = torch.randn(D_OUT, D), torch.randn(D_OUT)
    parts = [Sample(part, part @ weight.T + bias) for part in x.split(130)]
    found = fit_affine(parts)
    torch.testing.assert_close(found.weight, weight, rtol=1e-3, atol=1e-4)
    assert measure(parts, {"affine": found})["affine"].fvu < 1e-8


def test_a_loaded_state_continues_bit_for_bit() -> None:
    whole, resumed = trained(5, skip=True), trained(1, skip=True)
    saved = {name: torch.as_tensor(value).clone() for name, value in whole.state_dict().items()}
    assert {"b_dec", "b_dec.first", "W_skip", "W_skip.second"} <= set(saved)
    resumed.load_state_dict(saved)
    for number in range(5, 9):
        assert whole.step(*sample(256, number)).loss == resumed.step(*sample(256, number)).loss
    for (name, value), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other)), name


def test_dead_latents_start_anew_from_what_they_should_have_made() -> None:
    step = trained(3, skip=True)
    step.dead.silent_for.zero_()[torch.tensor([7])] = 5000
    odd = sample(64, 5)
    odd.target[9] += 1e4  # one that nothing gives
    assert resample(step, [odd], torch.Generator().manual_seed(0)) == 1
    sae = step.sae
    z = sae.normalise(odd.x).z[9]
    assert sae.b_dec is not None
    assert sae.W_skip is not None
    left = sae.standardise_target(odd.target)[9] - sae.b_dec - z @ sae.W_skip.T

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(torch.cosine_similarity(a.detach(), b.detach(), dim=0))

    assert cosine(sae.W_enc[7], z) > 0.999
    assert cosine(sae.W_dec[7], left) > 0.999
