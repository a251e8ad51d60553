"""Training over meshes of real gloo processes: the curves, selections and figures of one process; and what it sends."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchrun import finish, script, start

from monosem.errors import RecipeError
from monosem.recipe import Recipe
from monosem.run import Stage
from monosem.sae.exchange import ALONE, Exchange, Line
from monosem.sae.initialise import block_orthogonal
from monosem.store import shards
from monosem.train.lockstep import Wish
from monosem.train.parallel import mesh_of
from monosem.train.traffic import Shape, bytes_per_step, gradient_bytes

STEPS = 200
PROGRAM = str(Path(__file__).parent / "meshes.py")
WORLDS = {1: ["1x1"], 2: ["2x1", "1x2"], 4: ["2x2", "1x4"]}
MESHES = [name for names in WORLDS.values() for name in names][1:]
WAYS = [
    "topk", "topk-multi", "topk-transcoder", "topk-parts", "abstopk", "batchtopk-matryoshka", "relu", "relu-resampled",
    "jumprelu",
]  # fmt: skip


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `batches` folder of sparse sums of a fixed dictionary; what a transcoder shall make of them lies beside it."""
    folder = tmp_path_factory.mktemp("run") / "batches"
    stages = [Stage(folder / name, "batches", {}, {}) for name in ("x", "made")]
    generator = torch.Generator().manual_seed(0)
    dictionary = torch.nn.functional.normalize(torch.randn(60, 24, generator=generator), dim=1)
    made = torch.randn(24, 20, generator=generator) / 24**0.5
    for stage in stages:
        stage.begin()
    for shard, size in enumerate((5000, 3000, 2500)):
        codes = torch.rand(size, 60, generator=generator) * (torch.rand(size, 60, generator=generator) < 0.1)
        x = 4 * codes @ dictionary + 0.05 * torch.randn(size, 24, generator=generator)
        nowhere = {"sentence": torch.zeros(size).long()} | dict.fromkeys(("position", "token"), torch.zeros(size).int())
        for stage, rows in zip(stages, (x, (x @ made).relu()), strict=True):
            shards.write(stage.path / f"train-{shard:05d}.safetensors", {"activations": rows, **nowhere})
            stage.add_shard(f"train-{shard:05d}.safetensors", size)
    for stage in stages:
        stage.finish()
    return stages[0].path


@pytest.fixture(scope="module")
def curves(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What every mesh came to, by its name; each world is started once."""
    out = tmp_path_factory.mktemp("curves")
    for world, meshes in WORLDS.items():
        finish(start([PROGRAM, str(stored), str(out), str(STEPS), *meshes], world), seconds=300)
    return {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("way", WAYS)
def test_a_mesh_trains_as_one_process_does(way: str, mesh: str, curves: dict[str, dict[str, Any]]) -> None:
    one, many = curves["1x1"][way], curves[mesh][way]
    assert len(one["figures"]) == len(many["figures"]) == STEPS
    for ours, theirs in zip(many["figures"], one["figures"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["aux"] == pytest.approx(theirs["aux"], rel=1e-4)
        assert (ours["l0"], ours["n_dead"], ours["k"]) == (theirs["l0"], theirs["n_dead"], theirs["k"])
    assert many["resampled"] == one["resampled"]
    assert (one["resampled"] > 0) == (way == "relu-resampled")
    if way != "relu-resampled":
        assert sum(step["aux"] > 0 for step in one["figures"]) > STEPS / 2
    assert many["fired"] == one["fired"]  # how often every latent fired in every step
    assert f"{many['fvu']:.4f}" == f"{one['fvu']:.4f}"


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_a_step_sends_what_the_formula_says(mesh: str, curves: dict[str, dict[str, Any]]) -> None:
    data, latent = map(int, mesh.split("x"))
    size = curves[mesh]["bytes"]
    shape = Shape(size["d"], size["n"], size["k"], size["batch"], data, latent, stored=4)
    expected = bytes_per_step(shape, size["aux_rows"], size["aux_width"])
    assert size["sent"] == pytest.approx(expected, rel=0.05)
    if data == 1:  # sharing out the latents sends less than DDP does, by as much as was said
        plain = gradient_bytes(size["n"], size["d"], latent)
        assert plain / size["sent"] == pytest.approx(plain / expected, rel=0.05)
        assert plain > 3 * size["sent"]


@pytest.mark.slow
def test_exact_selection_over_ranks_and_ties_go_to_the_lowest() -> None:
    told = finish(
        start(
            script(
                """
                import torch
                from torch.distributed.device_mesh import init_device_mesh
                from monosem.train.parallel import Together
                for shape in ((1, 4), (2, 2), (4, 1)):
                    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "latent"))
                    exchange = Together(mesh, torch.device("cpu"), ranks)
                    generator = torch.Generator().manual_seed(sum(shape))
                    # few different values, so that ties are everywhere
                    whole = torch.randint(-3, 4, (10, 24), generator=generator).float()
                    own = whole[:, exchange.latents(24).start : exchange.latents(24).stop]
                    ordered = own.sort(dim=1, descending=True, stable=True)
                    for k in (1, 5, 9, 20, 24):
                        width = min(k, own.shape[1])
                        counts = exchange.kept(ordered.values[:, :width], k, width)
                        kept = torch.zeros_like(whole)
                        for row, count in enumerate(counts.tolist()):
                            kept[row, exchange.latents(24).start + ordered.indices[row, :count]] = 1
                        kept = exchange.add_up(kept)()
                        best = whole.sort(dim=1, descending=True, stable=True).indices[:, :k]
                        assert torch.equal(kept, torch.zeros_like(whole).scatter(1, best, 1.0)), (shape, k)
                    for dtype in (torch.float32, torch.float64):
                        values = torch.randn(4, 50, generator=generator, dtype=dtype)
                        values[:, :20] = values[:, :20].round()
                        for k in (1, 7, 60, 200):
                            found = exchange.kth_largest(values[ranks.rank, : 50], k)
                            assert found == values.flatten().sort(descending=True).values[k - 1], (shape, dtype, k)
                    places = torch.arange(ranks.rank, 40, 7)[: 3 + ranks.rank]
                    everybody = torch.cat([torch.arange(rank, 40, 7)[: 3 + rank] for rank in range(4)])
                    for count in (0, 1, 5, len(everybody), 100):
                        taken = exchange.total([exchange.earliest(places, count)])[0]
                        assert taken == min(count, len(everybody)), (shape, count)
                    rows = torch.arange(exchange.data.rank + 1)
                    expected = torch.cat([torch.arange(rank + 1) for rank in range(shape[0])])
                    assert torch.equal(exchange.gather_data(rows), expected)
                    assert exchange.each(exchange.latent.rank + 7) == [rank + 7 for rank in range(shape[1])]
                print("right")
                """
            ),
            world=4,
        )
    )
    assert told == ["right\n"] * 4


def test_alone_everything_is_what_was_given() -> None:
    values = torch.tensor([[3.0, 2.0, 2.0], [1.0, 0.0, -1.0]])
    assert ALONE.alone
    assert ALONE.lead
    assert ALONE.latents(10) == range(10)
    assert ALONE.reads(8) == range(8)
    assert all(add(values)() is values for add in (ALONE.add_up, ALONE.add_data, ALONE.add_all))
    assert ALONE.kept(values, 2, 3).tolist() == [2, 2]
    assert float(ALONE.kth_largest(values.flatten(), 3)) == 2.0
    assert ALONE.earliest(torch.arange(5), 3) == 3
    assert ALONE.total([1, 2.5]) == [1, 2.5]
    assert Wish(ALONE).heard(3) == 3


def test_a_mesh_s_processes_share_out_latents_and_rows() -> None:
    places = [Exchange(Line(data, 2), Line(latent, 3)) for data in range(2) for latent in range(3)]
    assert [row for place in places for row in place.reads(12)] == list(range(12))
    assert [latent for place in places[:3] for latent in place.latents(9)] == list(range(9))
    assert {place.whole(5) for place in places} == {10}
    # rows that are evenly spaced over the batch, whoever has them
    chosen = [
        place.data.rank * 50 + int(row) for place in places[::3] for row in place.evenly(7, 50, torch.device("cpu"))
    ]
    assert chosen == [i * 100 // 7 for i in range(7)]
    assert [place.lead for place in places] == [True, False, False, False, False, False]


@pytest.mark.parametrize(("n", "d"), [(24, 4), (24, 7), (6, 10)])
def test_a_share_of_a_dictionary_is_a_part_of_the_whole(n: int, d: int) -> None:
    whole = block_orthogonal(n, d, torch.Generator().manual_seed(2))
    for first in range(0, n, n // 3):
        part = block_orthogonal(n, d, torch.Generator().manual_seed(2), range(first, first + n // 3))
        assert torch.equal(part, whole[first : first + n // 3])


@pytest.mark.parametrize(
    ("changes", "world", "error"),
    [
        ({"train": {"mesh": [2, 2]}}, 3, r"train.mesh = \[2, 2\] is for 4 ranks, and 3 were started"),
        ({"train": {"mesh": [2, 1]}}, 1, r"train.mesh = \[2, 1\] is for 2 ranks, and 1 were started"),
        ({"sae": {"n": 100}}, 3, r"sae.n = 100 does not divide by the 3 latent ranks .*take n = 102"),
        ({"train": {"batch": 100}}, 8, r"train.batch = 100 does not divide by 8 ranks; take 104"),
    ],
)
def test_what_does_not_divide_is_refused(changes: dict[str, Any], world: int, error: str) -> None:
    with pytest.raises(RecipeError, match=error):
        mesh_of(
            Recipe.model_validate({"sae": {"n": 4096}, **changes, "train": {"k_aux": 8, **changes.get("train", {})}}),
            world,
        )


def test_without_a_mesh_all_ranks_share_out_the_latents() -> None:
    assert mesh_of(Recipe(), 8) == (1, 8)
    assert mesh_of(Recipe.model_validate({"train": {"mesh": [2, 4]}}), 8) == (2, 4)


def test_the_reference_s_step_sends_a_twelfth_of_what_ddp_would() -> None:
    reference = Shape(d=3072, n=65_536, k=64, batch=8192, data=1, latent=8)
    assert bytes_per_step(reference) == pytest.approx(222e6, rel=0.01)
    assert gradient_bytes(65_536, 3072, 8) == pytest.approx(2.82e9, rel=0.01)
