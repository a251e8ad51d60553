"""What a machine can do: GPUs from their data sheets, this computer's cores by multiplying for a moment.

A rate is what a large product reaches, not the sheet's peak. Knows nothing of recipes.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from monosem.errors import RecipeError

GB = 1e9
Clock = Callable[[], float]


class Machine(NamedTuple):
    """One device of a job, and how it is tied to the others."""

    name: str
    memory: float
    """Bytes of one device; on a CPU, of the computer."""
    bf16: float
    """FLOP/s of large products in bfloat16."""
    fp32: float
    """The same in float32."""
    bandwidth: float
    """Bytes/s of the memory."""
    link: float
    """Bytes/s that one device sends to the others while all do."""
    devices: int = 1
    is_cpu: bool = False


REACHED = 0.6
"""Share of a data sheet's peak that large products reach."""
GPUS = {
    # dense bf16 and fp32 peaks, memory, bandwidth: NVIDIA's data sheets; links: PCIe 4.0 x16 shared, NVLink 3 and 4
    "rtx4090": Machine("RTX 4090", 24 * GB, 165e12 * REACHED, 82e12 * REACHED, 1008 * GB, 10 * GB),
    "a100": Machine("A100 80 GB", 80 * GB, 312e12 * REACHED, 19.5e12 * REACHED, 2039 * GB, 250 * GB),
    "h100": Machine("H100 SXM", 80 * GB, 989e12 * REACHED, 67e12 * REACHED, 3350 * GB, 380 * GB),
    "h200": Machine("H200 SXM", 141 * GB, 989e12 * REACHED, 67e12 * REACHED, 4800 * GB, 380 * GB),
}


def machine(gpu: str | None, gpus: int) -> Machine:
    """The machine that a plan is for.

    Args:
        gpu: a key of `GPUS`; None: the GPU that is here, if it is one of them, else the CPU.

    Raises:
        RecipeError: no such GPU is known, or several are wanted of a computer without one.
    """
    if gpus < 1:
        raise RecipeError(f"--gpus {gpus}: expected at least 1")
    if gpu is None and torch.cuda.is_available():
        name = torch.cuda.get_device_name().lower().replace(" ", "")
        gpu = next((known for known in GPUS if known in name), None)
        if gpu is None:
            raise RecipeError(f"this GPU ({name}) is not tabulated; give the nearest: --gpu {'|'.join(GPUS)}")
    if gpu is None:
        if gpus > 1:
            raise RecipeError(f"--gpus {gpus}: of which kind? give --gpu {'|'.join(GPUS)}")
        return this_cpu()
    return GPUS[gpu]._replace(devices=gpus)


def this_cpu(clock: Clock = time.perf_counter) -> Machine:
    """This computer's cores, after half a second of products and copies.

    Args:
        clock: what is timed by; `time.process_time` leaves out what other programs take, for a single thread.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    bf16, fp32 = (_product_rate(dtype, clock) for dtype in (torch.bfloat16, torch.float32))
    name = f"CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
    return Machine(name, memory, bf16, fp32, _copy_rate(clock), link=0.0, is_cpu=True)


def _product_rate(dtype: torch.dtype, clock: Clock) -> float:
    a, b = (torch.randn(2048, 1024, dtype=dtype) for _ in range(2))
    return 2 * 2048 * 2048 * 1024 / _seconds(lambda: a @ b.T, clock)


def _copy_rate(clock: Clock) -> float:
    source = torch.empty(16 << 20, dtype=torch.float32).fill_(1.0)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds(lambda: target.copy_(source), clock)


def _seconds(call: Callable[[], object], clock: Clock, turns: int = 5) -> float:
    """Median time of a call, after one to warm up."""
    call()
    times = []
    for _ in range(turns):
        start = clock()
        call()
        times.append(clock() - start)
    return statistics.median(times)
