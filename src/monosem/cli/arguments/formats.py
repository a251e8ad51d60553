"""Of the verbs that exchange SAEs with other libraries."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from monosem.cli.arguments.fields import RUNS, AsJson, RunsFolder


@dataclass(frozen=True)
class ExportArguments:
    """Write an SAE for another library: SAELens, sparsify or dictionary_learning.

    It computes the same codes and reconstructions there, up to float32 rounding; `dataset` normalisation is folded into
    the weights. What the other library cannot compute is an error that says why.

    Example: monosem export runs/demo --format saelens --out exported/demo
    """

    target: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(help="A run folder, the name of a run, or the folder of an SAE."),
    ]
    format: Literal["saelens", "sparsify", "dictionary_learning"]
    """Whose format."""
    out: Path
    """The new folder; one that holds such an export already is replaced. sparsify goes by its name: `layers.20`."""
    unit_rows: bool = False
    """Give decoder rows norm 1, as some benchmarks ask: codes are in units of raw activations then, not monosem's."""
    runs: RunsFolder = RUNS
    json: AsJson = False


@dataclass(frozen=True)
class ImportArguments:
    """Read an SAE of another library into monosem's format, which `monosem.load_sae` and steering take.

    Known are SAELens, sparsify, dictionary_learning, OpenAI's, Gemma Scope and Llama Scope; which one it is, its files
    say. What monosem cannot compute exactly is an error that says why.

    Example: monosem import gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71 --out saes/gemma-20
    """

    folder: Annotated[
        tyro.conf.Positional[Path],
        tyro.conf.arg(help="The folder with its files; of OpenAI's SAEs, the .pt file."),
    ]
    out: Path
    """The new folder; an SAE of monosem's that is there already is replaced."""
    k: int | None = None
    """Active latents of an activation, where the files do not say: baselines are compared by it."""
    model: str | None = None
    """The language model, as a recipe names it, where the files do not say or say otherwise."""
    hook_point: str | None = None
    """The place in it, such as 20.resid_post."""
    target_hook_point: str | None = None
    """Of a transcoder: the place that it predicts."""
    json: AsJson = False
