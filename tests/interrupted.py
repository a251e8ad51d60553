"""Runs a stage in processes that are killed (SIGKILL) again and again, until one of them reaches the end."""

import subprocess
import sys
import textwrap
from pathlib import Path

SCRIPT = """
import os, pathlib, signal, threading
{setup}

def killed_at(count):
    replace = pathlib.Path.replace
    finished, lock = 0, threading.Lock()
    def counted(self, target):
        nonlocal finished
        with lock:  # of two threads each has a number of its own
            finished += 1
            last = finished == count
        if last and count % 2:
            os.kill(os.getpid(), signal.SIGKILL)  # the file is written, but has not got its name
        renamed = replace(self, target)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)  # it has its name, but nobody has written that down
        return renamed
    pathlib.Path.replace = counted
    make()
    os._exit(0)

kills = 0
while True:
    child = os.fork()
    if child == 0:
        killed_at(kills + 1)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        break
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    kills += 1
print(kills)
"""


def make_with_kills(setup: str) -> int:
    """Call the `make()` that `setup` defines until it ends; the n-th process is killed at its n-th finished file.

    Returns how many were killed.
    """
    script = SCRIPT.format(setup=textwrap.dedent(setup))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return int(done.stdout.split()[-1])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` but manifests, whose times differ, and a journal that nobody lived to clear away."""
    kept = ("manifest.json", "shards.jsonl")
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name not in kept]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
