"""A run folder around the small random model: an SAE, its maxima, some explanations. And the model made fit to chat."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from random_model import HOOK_POINT, N, random_llama, random_sae

from monosem.lm.llama import Llama
from monosem.recipe import Recipe
from monosem.run import Run
from monosem.sae import files

MAXIMUM = 2.0


def small_run(path: Path) -> Run:
    """Every latent's maximum is 2; the even ones are explained."""
    run = Run(path, Recipe.model_validate({"capture": {"hook_points": [HOOK_POINT]}}))
    run.path.mkdir()
    run.save_recipe()
    files.save(random_sae(), run.folder("sae") / "final")
    run.folder("examples").mkdir()
    table = pa.table({"latent": pa.array(range(N), pa.int32()), "max": pa.array([MAXIMUM] * N, pa.float32())})
    pq.write_table(table, run.folder("examples") / "latents.parquet")
    run.folder("explanations").mkdir()
    rows = [{"latent": latent, "explanation": f"meaning {latent}", "certainty": 0.5} for latent in range(0, N, 2)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run.folder("explanations") / "explanations.jsonl").write_text(text)
    return run


def chatty_llama(seed: int = 0) -> Llama:
    """The small model; two of the rows that no token used are the marks of a chat."""
    model = random_llama(seed)
    tokenizer = model.tokenizer
    first = max(tokenizer.special.values()) + 1
    tokenizer.special |= {"<|im_start|>": first, "<|im_end|>": first + 1}
    tokenizer.eos_ids = (*tokenizer.eos_ids, first + 1)
    return model
