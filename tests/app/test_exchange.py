"""`monosem export` and `monosem import`: what they write and print, and every mistake as one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from drawn_saes import D, K, N, activations, assert_same, draw_sae, ours

import monosem
from monosem.cli import main
from monosem.cli.arguments.formats import ExportArguments
from monosem.recipe import Recipe
from monosem.run import Run
from monosem.sae import files, formats

ErrorLine = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with nothing but its SAE."""
    run = Run(tmp_path / "runs" / "small", Recipe())
    run.path.mkdir(parents=True)
    run.save_recipe()
    files.save(draw_sae(), run.folder("sae") / "final")
    return run


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    main(argv)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", get_args(formats.WriteFormat))
def test_there_and_back(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    there, back = str(tmp_path / "there"), tmp_path / "back"
    shown = printed(capsys, "export", str(run.path), "--format", name, "--out", there).splitlines()
    assert shown[0].startswith("note: ")
    assert shown[-1] == (f"{there}: topk SAE, {N} latents, width {D}, at 3.resid_post of hf:an/lm; written for {name}")
    shown = printed(capsys, "import", there, "--out", str(back))
    assert shown.splitlines()[-1].endswith(f"; read from {name}")
    assert files.read_metadata(back)["imported_from"] == name
    assert_same(ours(monosem.load_sae(back), activations()), ours(draw_sae(), activations()))


def test_runs_by_name_and_saes_by_folder(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target in ("small", str(run.sae_folder)):
        main(["export", target, "--runs", str(run.path.parent), "--format", "sparsify", "--out", str(tmp_path / "out")])
    assert formats.detect(tmp_path / "out") == "sparsify"
    assert capsys.readouterr().out.count("; written for sparsify") == 2


def test_json(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there, back = str(tmp_path / "there"), str(tmp_path / "back")
    made = json.loads(printed(capsys, "export", str(run.path), "--format", "saelens", "--out", there, "--json"))
    assert (made["folder"], made["format"], made["n"], made["k"]) == (there, "saelens", N, K)
    made = json.loads(printed(capsys, "import", there, "--out", back, "--hook-point", "5.z", "--json"))
    assert (made["hook_point"], made["model"], made["format"]) == ("5.z", "hf:an/lm", "saelens")
    assert files.read_config(tmp_path / "back").hook_point == "5.z"


def test_unit_rows(run: Run, tmp_path: Path) -> None:
    main(["export", str(run.path), "--format", "saelens", "--out", str(tmp_path / "out"), "--unit-rows"])
    rows = formats.read(tmp_path / "out").sae.W_dec.norm(dim=1)
    torch.testing.assert_close(rows, torch.ones(N))


def test_mistakes_are_one_line_and_write_nothing(run: Run, tmp_path: Path, error_line: ErrorLine) -> None:
    out = tmp_path / "out"
    export = ["export", str(run.path), "--format", "saelens", "--out"]
    assert "nowhere/cfg.json: no such file; give the folder of an SAE" in error_line(
        "export", str(tmp_path / "nowhere"), "--format", "saelens", "--out", str(out)
    )
    assert "holds other files (cfg.json, sae.safetensors)" in error_line(*export, str(run.sae_folder))
    sparsify = ["export", str(run.path), "--format", "sparsify", "--out", str(run.sae_folder)]
    assert "holds other files (cfg.json, sae.safetensors)" in error_line(*sparsify)
    assert "no SAE of a known format; found: nothing" in error_line("import", str(empty(tmp_path)), "--out", str(out))
    there, again = str(tmp_path / "there"), str(tmp_path / "sparsify")
    formats.write(draw_sae(), there, "saelens")
    formats.write(draw_sae(), again, "sparsify")
    assert "not of the form LAYER.NAME" in error_line("import", there, "--out", str(out), "--hook-point", "residual")
    assert "holds other files (cfg.json, sae_weights.safetensors)" in error_line("import", there, "--out", there)
    assert "holds other files" in error_line("import", again, "--out", again)
    assert not out.exists()
    assert_same(ours(files.load(run.sae_folder), activations()), ours(draw_sae(), activations()))


def test_an_import_replaces_an_sae_of_ours(run: Run, tmp_path: Path) -> None:
    main(["export", str(run.path), "--format", "saelens", "--out", str(tmp_path / "there")])
    files.save(draw_sae(seed=5), tmp_path / "back")
    main(["import", str(tmp_path / "there"), "--out", str(tmp_path / "back")])
    assert_same(ours(files.load(tmp_path / "back"), activations()), ours(draw_sae(), activations()))


def test_the_command_knows_every_format() -> None:
    assert get_args(get_type_hints(ExportArguments)["format"]) == get_args(formats.WriteFormat)


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"
