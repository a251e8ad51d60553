"""Runs a stage over several ranks of which one is killed (SIGKILL) at a random moment, again and again."""

import subprocess
import sys
import textwrap
from pathlib import Path

SCRIPT = """
import os, pathlib, random, signal, socket, sys, time
import torch
import torch.distributed
from monosem.ranks import Ranks, joined
torch.set_num_threads(1)
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive the fork

{setup}

def launch(world):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, LOCAL_WORLD_SIZE=world, MASTER_PORT=port)
            os.environ.update({{name: str(value) for name, value in place.items()}}, MASTER_ADDR="127.0.0.1")
            code = 1
            try:
                with joined(patience=60) as ranks:
                    make(ranks)
                code = 0
            except BaseException as error:
                print(rank, type(error), str(error)[:2000], file=sys.stderr, flush=True)
            os._exit(code)
        children.append(child)
    return children

def finished():
    return sum(1 for file in FOLDER.rglob("*.safetensors"))

draw, kills, worlds = random.Random({seed}), 0, [2] + [1, 2, 3] * 4
while kills < {kills}:
    before, children = finished(), launch(worlds[kills])
    begun, patience = time.monotonic(), draw.choice([0.3, 20, 20])  # some are killed before any file is finished
    while finished() == before and time.monotonic() - begun < patience:
        time.sleep(0.001)
    time.sleep(draw.random() * {longest})
    victim = children.pop(draw.randrange(len(children)))
    os.kill(victim, signal.SIGKILL)
    _, status = os.waitpid(victim, 0)
    assert os.WIFSIGNALED(status), "it ended before it was killed: " + str(kills)
    time.sleep(0.1)  # what torchrun needs to notice
    for child in children:
        os.kill(child, signal.SIGTERM)
    for child in children:
        os.waitpid(child, 0)
    kills += 1
for child in launch(3):
    assert os.waitpid(child, 0)[1] == 0, "the last start failed"
print(kills)
"""


def make_with_kills_of_ranks(setup: str, kills: int = 10, longest: float = 0.3, seed: int = 0) -> None:
    """Call `make(ranks)` in 2 ranks, then in 1, 2 or 3, one of which is killed each time; at last in 3 to the end.

    Args:
        setup: defines `make` and `FOLDER`, where files are finished.
        longest: seconds after the first file of a start that the kill may take.
    """
    script = SCRIPT.format(setup=textwrap.dedent(setup), kills=kills, longest=longest, seed=seed)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.split()[-1]) == kills


def without_times(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, without the times in manifests."""
    import json

    files = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            data = file.read_bytes()
            if file.name == "manifest.json":
                manifest = json.loads(data)
                data = json.dumps({key: value for key, value in manifest.items() if key not in TIMES}).encode()
            files[file.relative_to(folder).as_posix()] = data
    return files


TIMES = ("started", "finished", "seconds")
