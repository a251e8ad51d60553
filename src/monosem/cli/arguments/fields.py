"""What several verbs take."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

RUNS = Path("runs")
Mode = Literal["add", "clamp", "scale", "ablate"]

RecipeOrRun = Annotated[
    tyro.conf.Positional[str],
    tyro.conf.arg(help="A recipe (`recipes/demo.toml`), a run folder (`runs/demo`), or the name of a run (`demo`)."),
]
FinishedRun = Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="A run folder, or the name of a run.")]
RunsFolder = Annotated[Path, tyro.conf.arg(help="Folder that holds the run folders.")]
Latent = Annotated[tyro.conf.Positional[int], tyro.conf.arg(help="Number of the latent, from 0.")]
AsJson = Annotated[bool, tyro.conf.arg(help="Print the result as one JSON object.")]
