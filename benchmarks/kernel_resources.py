"""Compiles every Triton kernel for a GPU that need not be there, and shows what it takes: registers, spills, memory.

The kernels are called as training calls them, at the width that is asked for and few rows, on CPU tensors; instead of
a launch there is a compilation, whose PTX goes through the assembler that Triton brings along.

    python benchmarks/kernel_resources.py --d 3072 --capability 90 --json
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime.jit import JITFunction

from monosem.kernels import AdamSettings, DenseRows, Moments, Pattern, Workspace, codes
from monosem.kernels import triton as kernels
from monosem.kernels.triton import plan, product

FEW = 256
ADAM = AdamSettings(1e-4, 0.9, 0.999, 1e-8, 0.0, 1)


class Resources(NamedTuple):
    """What one compiled kernel takes."""

    kernel: str
    variant: str
    """Its compile-time settings."""
    warps: int
    registers: int
    """Of a thread."""
    spilled: int
    """Bytes of a thread that did not fit into registers."""
    shared: int
    """Bytes of a program."""
    tensor_cores: str
    """The instruction that multiplies on them: `wgmma` (Hopper), `mma` or none."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=3072, help="width of the activations")
    parser.add_argument("--n", type=int, default=4096, help="latents")
    parser.add_argument("--k", type=int, default=64, help="active latents")
    parser.add_argument("--capability", type=int, default=90, help="of the GPU: 80, 89, 90, ...")
    parser.add_argument("--json", action="store_true", help="one JSON list instead of the table")
    args = parser.parse_args()
    found = resources(args.d, args.n, args.k, args.capability)
    if args.json:
        print(json.dumps([row._asdict() for row in found], indent=2))
        return
    print(f"{'kernel':20}{'warps':>6}{'registers':>10}{'spilled':>8}{'shared':>8}  {'':6}variant")
    for row in found:
        print(
            f"{row.kernel:20}{row.warps:>6}{row.registers:>10}{row.spilled:>8}{row.shared:>8}  "
            f"{row.tensor_cores:6}{row.variant}"
        )


def resources(d: int, n: int, k: int, capability: int) -> list[Resources]:
    """Compile every kernel at width d for a CUDA GPU of this capability."""
    found: dict[tuple[str, str], Resources] = {}

    def compile_only(self: Any, *args: Any, **kwargs: Any) -> None:
        compiled = compile_run(self, *args, **{**kwargs, "grid": (1,), "warmup": True})
        settings = {name: value for name, value in kwargs.items() if name.isupper()}
        variant = " ".join(f"{name}={value}" for name, value in settings.items())
        found[self.fn.__name__, variant] = assembled(self.fn.__name__, variant, compiled, capability)

    compile_run = JITFunction.run
    JITFunction.run = compile_only  # pyright: ignore[reportAttributeAccessIssue]
    triton.runtime.driver.set_active(_AbsentGpu(capability))  # pyright: ignore[reportArgumentType]
    torch.empty = torch.zeros  # what no kernel fills is read as counts
    try:
        call_all(d, n, k)
    finally:
        JITFunction.run = compile_run
    return list(found.values())


def call_all(d: int, n: int, k: int) -> None:
    """Every public kernel once, in every variant that training uses."""
    z, w, b = torch.zeros(FEW, d), torch.zeros(n, d), torch.zeros(n)
    workspace = Workspace()
    for exact in (False, True):
        for absolute in (False, True):
            kernels.select_topk(z, w, b, k, workspace, exact=exact, absolute=absolute)
        kernels.select_above(z, w, b, workspace, exact=exact)
    kernels.select_topk(z, w, b, n // 16, workspace, exact=False)  # no more tiles than k
    low, low_weight = (torch.zeros(len(m), plan.even(d), dtype=torch.bfloat16) for m in (z, w))
    for blocks in product.OTHER_BLOCKS:
        pre, maxima = torch.zeros(FEW, n, dtype=torch.bfloat16), torch.zeros(FEW, n // 32, dtype=torch.bfloat16)
        product.product(low, low_weight, b, pre, maxima, 32, blocks=blocks)
    pattern = Pattern.fixed(torch.arange(FEW * k).view(FEW, k) % n, n)
    values = torch.zeros(FEW * k)
    kernels.values_at(z, w, pattern)
    kernels.values_at(z, w, pattern, b)
    kernels.decode(values, pattern, w)
    kernels.decode(values, pattern, w.bfloat16())
    by_latent = kernels.by_latent(pattern)
    kernels.sum_by_latent(values, pattern, by_latent)
    extra = DenseRows(torch.arange(3), torch.zeros(3, d))
    for more in (None, extra):
        kernels.latent_gradient(values, by_latent, z, more, w)
        for unit in (False, True):
            moments = Moments.zeros_like(w)
            kernels.update_from_codes(w, values, by_latent, z, more, moments, ADAM, project=unit, unit_norm=unit)
    always_kept(values, pattern, by_latent, z, w, workspace)
    for weight, unit in ((w, True), (w, False), (b, False)):
        kernels.update_rows(weight, weight, Moments.zeros_like(weight), ADAM, project=unit, unit_norm=unit)
    kernels.project_rows(w, w)
    for width in (500, plan.LANES):
        kernels.keep_largest(torch.zeros(4, width), k, signed=False)


def always_kept(
    values: Tensor, pattern: Pattern, by_latent: codes.ByLatent, z: Tensor, w: Tensor, workspace: Workspace
) -> None:
    """`code_gradients` as it is where there are many entries for each latent."""
    original, plan.keeps_gradient = plan.keeps_gradient, lambda *_: True
    kernels.code_gradients(values, pattern, by_latent, z, w, workspace)
    plan.keeps_gradient = original


def assembled(name: str, variant: str, compiled: Any, capability: int) -> Resources:
    """What the assembler says about a kernel's PTX."""
    ptx = compiled.asm["ptx"]
    suffix = "a" if capability >= 90 else ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx)
        command = [get_ptxas(capability).path, "-v", f"--gpu-name=sm_{capability}{suffix}", "-o", f"{folder}/out", path]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spilled = re.findall(r"(\d+) bytes spill", said)
    assert registers is not None, said
    instruction = "wgmma" if "wgmma.mma_async" in ptx else "mma" if "mma.sync" in ptx else ""
    return Resources(
        name,
        variant,
        compiled.metadata.num_warps,
        int(registers[1]),
        sum(map(int, spilled)),
        compiled.metadata.shared,
        instruction,
    )


class _AbsentGpu:
    """A driver that knows for what to compile, and nothing else."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)
        self.utils = SimpleNamespace()

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:  # noqa: ARG002
        return 0

    def get_current_target(self) -> GPUTarget:
        return self._target


if __name__ == "__main__":
    main()
