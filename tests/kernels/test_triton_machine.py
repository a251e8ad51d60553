"""What a GPU would be given, without one: every kernel compiled for Hopper, and the script that checks them there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHARED_BYTES = 227 * 1024
"""Of an H100, for one program."""
ONLY_TORCH = """
import importlib.abc, runpy, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"rich", "pydantic", "safetensors", "scipy", "pyarrow", "matplotlib", "tyro"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.path.insert(0, sys.argv[1])
sys.argv = [sys.argv[1] + "/gpu.py", *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("d", [3072, 577])
def test_every_kernel_compiles_for_hopper_without_spilling(d: int) -> None:
    command = [sys.executable, BENCHMARKS / "kernel_resources.py", "--d", str(d), "--n", "4096", "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert {row["kernel"] for row in found} >= {"product_kernel", "values_kernel", "latents_kernel", "update_kernel"}
    for row in found:
        assert row["spilled"] == 0, row
        assert row["shared"] <= SHARED_BYTES, row
        assert (row["tensor_cores"] == "wgmma") == (row["kernel"] == "product_kernel"), row


@pytest.mark.slow
def test_the_gpu_script_runs_to_its_end_with_nothing_but_torch_and_triton(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ONLY_TORCH, str(BENCHMARKS), "--interpret", "--rounds", "1", "--json"]
    said = subprocess.run(
        [*command, str(tmp_path / "gpu.json")], check=True, capture_output=True, text=True, env={**os.environ}
    ).stdout
    assert "WRONG" not in said
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert all(check["error"] <= 1e-5 for check in report["checks"])
    (measured,) = report["shapes"]
    assert {"monosem", "monosem, batchtopk"} <= set(measured["whole steps"])
    for section in ("whole steps", "parts", "products"):
        assert all(row["ms"] > 0 for row in measured[section].values())


def test_the_gpu_script_says_that_there_is_no_gpu() -> None:
    command = [sys.executable, BENCHMARKS / "gpu.py"]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert ended.returncode == 2
    assert "there is no CUDA device; --interpret runs on the CPU" in ended.stderr
