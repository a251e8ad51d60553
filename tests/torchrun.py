"""Several real ranks for tests: processes of one machine, started as torchrun starts them."""

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(
    arguments: Sequence[str], world: int, changes: Mapping[int, Mapping[str, str]] | None = None
) -> list[subprocess.Popen[str]]:
    """Start `world` processes of this Python with the arguments.

    Args:
        changes: what is other in the environment of a rank.
    """
    place = {
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    place |= {"OMP_NUM_THREADS": "1"}
    started = []
    for rank in range(world):
        environment = {
            **os.environ,
            **place,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            **(changes or {}).get(rank, {}),
        }
        started.append(
            subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def finish(processes: Sequence[subprocess.Popen[str]], seconds: float = 120) -> list[str]:
    """What each rank printed; all must end well."""
    told = [process.communicate(timeout=seconds) for process in processes]
    for process, (_, complaint) in zip(processes, told, strict=True):
        assert process.returncode == 0, complaint[-4000:]
    return [out for out, _ in told]


def script(text: str) -> list[str]:
    """Arguments of Python that run `text` with `ranks`, a `Ranks`."""
    lines = [
        "import os, signal, time",
        "from monosem.errors import MonosemError, RunError, StoreError",
        "from monosem.ranks import joined",
    ]
    lines += ["with joined(patience=20) as ranks:", textwrap.indent(textwrap.dedent(text), "    ")]
    return ["-c", "\n".join(lines)]
