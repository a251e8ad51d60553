"""int8 activations: how far they are from what they stand for, half the bytes, and the same for every reader."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from source_store import in_order, make_store, read_all
from torch import Tensor

from monosem.atomic import sha256
from monosem.errors import StoreError
from monosem.recipe import PrepareRecipe, Recipe
from monosem.run import Stage
from monosem.store import preparation, shards
from monosem.store.encoding import Format, centre_of, row_bytes
from monosem.store.loader import Loader, validation
from monosem.store.pairs import Sample
from monosem.store.shard_file import ShardFile
from monosem.store.stats import Statistics
from monosem.train.settings import Plan, new_sae, step_settings
from monosem.train.source import Known
from monosem.train.step import TrainStep


def heavy_tailed(rows: int, d: int, seed: int = 0) -> Tensor:
    """Like a residual stream: most dimensions small, a few with a large mean and a large spread."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.exp(torch.randn(d, generator=generator) * 0.6)
    centre = torch.randn(d, generator=generator)
    spread[::97], centre[::97] = 8.0, 60.0
    return torch.randn(rows, d, generator=generator) * spread + centre


def fvu(x: Tensor, read: Tensor) -> float:
    return float((x - read).square().sum() / (x - x.mean(dim=0)).square().sum())


def int8(x: Tensor) -> Format:
    return Format(torch.int8, centre_of(x, x.norm(dim=1)))


@pytest.mark.parametrize("d", [1, 24, 64, 65, 127, 576])
def test_no_value_is_off_by_more_than_half_a_step_of_its_group(d: int) -> None:
    x = heavy_tailed(300, d)
    form = int8(x)
    stored = form.encode(x)
    assert stored.activations.dtype == torch.int8
    assert stored.activations.shape == (300, d)
    assert stored.scales.shape == (300, -(-d // 64))
    step = stored.scales.float().repeat_interleave(64, dim=1)[:, :d]
    error = (form.decode(stored) - x).abs()
    # the scale itself is rounded to bf16: the largest value may be half a step and 127 times 2^-9 steps away
    assert bool((error <= step * (0.5 + 127 * 2**-8)).all())
    assert float((error / step).mean()) < 0.26


def test_the_centre_comes_off_first() -> None:
    x = heavy_tailed(2000, 576)
    centred = fvu(x, int8(x).decode(int8(x).encode(x)))
    plain = Format(torch.int8, torch.zeros(576))
    assert centred < 3e-4
    assert centred < fvu(x, plain.decode(plain.encode(x))) / 2


def test_a_sink_coarsens_only_itself_and_does_not_move_the_centre() -> None:
    x = heavy_tailed(1000, 128)
    with_sinks = x.clone()
    with_sinks[::25] *= 100
    form, alone = int8(with_sinks), int8(x[torch.arange(1000) % 25 != 0])
    torch.testing.assert_close(form.centre, alone.centre)
    rest = torch.arange(1000) % 25 != 0
    assert torch.equal(form.encode(with_sinks).activations[rest], alone.encode(x[rest]).activations)
    sinks = with_sinks[~rest]
    error = (form.decode(form.encode(sinks)) - sinks).norm(dim=1)
    assert bool((error < 0.03 * sinks.norm(dim=1)).all())


@given(st.floats(-(2.0**100), 2.0**100, width=32), st.integers(1, 130))
def test_any_finite_value_comes_back_finite(value: float, d: int) -> None:
    x = torch.full((2, d), value)
    x[1] = 0
    form = Format(torch.int8, torch.zeros(d))
    read = form.decode(form.encode(x))
    assert bool(read.isfinite().all())
    torch.testing.assert_close(read, x, rtol=0.01, atol=1e-30)


def test_it_takes_half_the_bytes(tmp_path: Path) -> None:
    assert row_bytes(torch.int8, 576) / row_bytes(torch.bfloat16, 576) == pytest.approx(0.5, abs=0.02)
    sizes = [
        sum(shard.bytes for shard in make_store(tmp_path / str(dtype), d=1024, dtype=dtype).stage.shards)
        for dtype in (torch.int8, torch.bfloat16)
    ]
    assert sizes[0] / sizes[1] < 0.53


@pytest.mark.parametrize("d", [24, 64, 100])
def test_prepare_and_every_reader_give_the_rows_that_were_stored(tmp_path: Path, d: int) -> None:
    store = make_store(tmp_path, d=d, dtype=torch.int8)
    stage = Stage(tmp_path / "batches" / "x", "batches", {}, {})
    preparation.Preparation(store.stage, stage, PrepareRecipe(validation_fraction=0.2), 0).make()
    train, held_out = read_all(stage.path, "train-"), read_all(stage.path, "validation-")
    both = type(train)(*(torch.cat(pair) for pair in zip(train, held_out, strict=True)))
    for found, expected in zip(in_order(both), in_order(store.rows), strict=True):
        assert torch.equal(found, expected)
    assert load_file(stage.path / "train-00000.safetensors")["activations"].dtype == torch.int8
    statistics = Statistics.load(stage.path)
    torch.testing.assert_close(torch.from_numpy(statistics.mean), train.activations.double().mean(dim=0))
    assert torch.equal(torch.cat([sample.x for sample in validation(stage.path, 33)]), held_out.activations)
    loader = Loader(stage.path, 64, seed=0)
    assert (loader.d, loader.dtype) == (d, torch.float32)
    epoch = torch.cat([batch.x.clone() for batch in islice(loader, -(-loader.rows // 64))])[: loader.rows]
    loader.close()
    assert torch.equal(epoch.sum(dim=1).sort().values, train.activations.sum(dim=1).sort().values)


@pytest.mark.parametrize("name", ["centre", "scales"])
def test_int8_without_its_scales_or_centre_is_refused(tmp_path: Path, name: str) -> None:
    file = make_store(tmp_path, dtype=torch.int8).stage.path / "activations-00000.safetensors"
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file)
    with pytest.raises(StoreError, match=rf"{file}: int8 activations without their {name}; make it again with"):
        ShardFile(file)


def test_shards_of_two_centres_are_not_mixed(tmp_path: Path) -> None:
    store = make_store(tmp_path, dtype=torch.int8)
    file = store.stage.path / store.stage.shards[1].name
    tensors = load_file(file)
    shards.write(file, tensors | {"centre": tensors["centre"] + 1})
    shard = store.stage.shards[1]
    changed = shard.model_copy(update={"sha256": sha256(file), "bytes": file.stat().st_size})
    store.stage.manifest.shards[1] = store.stage.shards[1] = changed
    stage = Stage(tmp_path / "batches" / "x", "batches", {}, {})
    with pytest.raises(StoreError, match="activations of another format or int8 centre"):
        preparation.Preparation(store.stage, stage, PrepareRecipe(), 0).make()


@pytest.mark.slow
def test_an_sae_trained_on_int8_is_as_good_as_one_trained_on_bfloat16() -> None:
    x = of_concepts(40_000, d=128)
    held_out, train = x[:4000], x[4000:]
    form = int8(train)
    found = {
        "bfloat16": trained_fvu(train.bfloat16().float(), held_out),
        "int8": trained_fvu(form.decode(form.encode(train)), held_out),
    }
    assert found["bfloat16"] < 0.5
    assert found["int8"] == pytest.approx(found["bfloat16"], rel=0.005)


def of_concepts(rows: int, d: int) -> Tensor:
    """A few of 400 directions each, on a heavy-tailed background."""
    generator = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(400, d, generator=generator))
    strength = torch.rand(rows, 400, generator=generator) * (torch.rand(rows, 400, generator=generator) < 0.02)
    return 20 * strength @ directions + 0.3 * heavy_tailed(rows, d)


def trained_fvu(x: Tensor, held_out: Tensor, steps: int = 600, batch: int = 512) -> float:
    """FVU on `held_out` of an SAE trained on `x`, the same batches each time."""
    statistics = Statistics.of(x)
    recipe = Recipe.model_validate({"sae": {"n": 512, "k": 16}, "train": {"lr": 1e-3, "k_aux": 32}})
    plan = Plan(steps, 10, steps, frozenset())
    sae = new_sae(recipe, Known(statistics, None), Sample(x[:0], x[:0]))
    step = TrainStep(sae, step_settings(recipe, plan, x.shape[1]))
    order = torch.Generator().manual_seed(2)
    for _ in range(steps):
        step.step(x[torch.randint(len(x), (batch,), generator=order)])
    with torch.no_grad():
        return fvu(held_out, sae.decode(sae.encode(held_out)))
