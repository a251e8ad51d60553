"""The largest resident memory of this process, for benchmarks that run in a process of their own."""

from pathlib import Path


def peak_bytes() -> int:
    """The kernel's high-water mark of this program.

    `getrusage` keeps what the process held before `exec`, so a child of a large one would report its parent's.
    """
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
