"""Loading takes the memory of the weights and of one tensor, whatever the layout of the files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_models import LLAMA3_TOKENS, random_llama, small_config, write_meta, write_tiktoken
from transformers import LlamaForCausalLM

from monosem.lm.tiktoken_file import read_tiktoken

MB = 1 << 20

MEASURE = """
import json, sys, threading, time
from pathlib import Path
import torch
from monosem.lm.checkpoint import load_model

torch.set_num_threads(1)
torch.ones(1000, 1000).bfloat16() @ torch.ones(1000, 1000).bfloat16()  # what torch allocates once


def anonymous():
    # Mapped files are left out: the kernel takes their pages back when it needs them.
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) * 1024


def watch():
    global peak
    while loading:
        peak = max(peak, anonymous())
        time.sleep(0.0005)


load_model(Path(sys.argv[2]), device="cpu")  # every import is done
loading, peak, before = True, 0, anonymous()
watcher = threading.Thread(target=watch)
watcher.start()
model = load_model(Path(sys.argv[1]), device="cpu")
loading = False
watcher.join()
sizes = [weight.nbytes for weight in model.parameters()]
print(json.dumps({"peak": peak - before, "weights": sum(sizes), "after": anonymous() - before}))
"""


def measure(path: Path, small: Path) -> dict[str, int]:
    done = subprocess.run([sys.executable, "-c", MEASURE, path, small], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write_hugging_face(path: Path, reference: LlamaForCausalLM) -> Path:
    reference.save_pretrained(path, max_shard_size="100MB")
    read_tiktoken(write_tiktoken(path / "tokenizer.model"))._backend.save(str(path / "tokenizer.json"))
    return path


@pytest.mark.slow
def test_the_peak_is_the_weights_and_one_tensor(tmp_path: Path) -> None:
    # 42 MB: malloc hands what is above 32 MiB straight back, and may keep what is below.
    largest = 10_240 * 1024 * 4
    shape: dict[str, Any] = {
        "hidden_size": 1024,
        "intermediate_size": 10_240,
        "num_attention_heads": 8,
        "num_hidden_layers": 2,
    }
    reference = random_llama(small_config(vocab_size=LLAMA3_TOKENS, **shape), spread=0.02)
    small = random_llama(small_config(vocab_size=LLAMA3_TOKENS))
    params: dict[str, Any] = {"ffn_dim_multiplier": 3.75, "multiple_of": 256}
    small_params: dict[str, Any] = {"ffn_dim_multiplier": 0.6, "multiple_of": 80}
    layouts = {
        "one Meta shard": (
            write_meta(tmp_path / "one", reference, **params),
            write_meta(tmp_path / "small", small, **small_params),
        ),
        "two Meta shards": (
            write_meta(tmp_path / "two", reference, shards=2, **params),
            write_meta(tmp_path / "small two", small, shards=2, **small_params),
        ),
        "Hugging Face": (
            write_hugging_face(tmp_path / "folder", reference),
            write_hugging_face(tmp_path / "small folder", small),
        ),
    }
    for name, (path, little) in layouts.items():
        found = measure(path, little)
        assert found["weights"] > 200 * MB
        assert found["after"] > 0.9 * found["weights"], "the weights were seen"
        assert found["peak"] < found["weights"] + largest + 20 * MB, f"{name}: {found}"
