"""Logits of Meta's Llama 3 in fp32: `python logits.py FOLDER`, which holds job.json and gets logits.npz.

The job: `model`, a folder of one shard; `sentences`, lists of ids; `factor` and `original_context`, the constants of
the rotary scaling.
"""
# pyright: reportMissingImports=false

import inspect
import json
import sys
from pathlib import Path

import numpy as np
import torch
from fairscale.nn.model_parallel.initialize import initialize_model_parallel
from llama_models.llama3 import model as meta
from llama_models.llama3.args import ModelArgs

CHUNK = 512
"""Tokens a call; later ones attend to the cache, so that no score matrix is longer on both sides."""


def set_scaling(factor: float, original_context: int) -> None:
    """Put other constants into Meta's `apply_scaling`, which has them written out."""
    source = inspect.getsource(meta.apply_scaling)
    for written, wanted in (
        ("scale_factor = 8", f"scale_factor = {factor}"),
        ("old_context_len = 8192", f"old_context_len = {original_context}"),
    ):
        assert source.count(written) == 1
        source = source.replace(written, wanted)
    exec(source, vars(meta))


def logits(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    chunks = [model(torch.tensor([ids[start : start + CHUNK]]), start) for start in range(0, len(ids), CHUNK)]
    return torch.cat(chunks, dim=1)[0].numpy()


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    torch.distributed.init_process_group("gloo", init_method=(folder / "store").as_uri(), rank=0, world_size=1)
    initialize_model_parallel(1)
    if (job["factor"], job["original_context"]) != (8, 8192):
        set_scaling(job["factor"], job["original_context"])
    params = json.loads(Path(job["model"], "params.json").read_text())
    longest = max(map(len, job["sentences"]))
    model = meta.Transformer(ModelArgs(**params, max_seq_len=longest, max_batch_size=1))
    model.load_state_dict(torch.load(Path(job["model"], "consolidated.00.pth"), weights_only=True), strict=True)
    model.eval()
    np.savez(folder / "logits.npz", *(logits(model, ids) for ids in job["sentences"]))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
