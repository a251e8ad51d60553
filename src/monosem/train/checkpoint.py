"""A training run on disk in the middle of its way: `sae/step-N/`, which loads directly as an SAE.

Beside the SAE's own files it holds `trainer.safetensors` (moments, counters, the open tracking interval) and
`trainer.json` (step, place in the data, early stopping). A checkpoint appears whole or not at all; the newest stays.
Several processes write theirs in another format (`sharded`); each of the two is read by any number of processes.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from monosem.atomic import atomic_folder
from monosem.errors import SaeError, TrainingError
from monosem.sae import files
from monosem.sae.autoencoder import BY_LATENT, Autoencoder
from monosem.sae.exchange import ALONE, Exchange

if TYPE_CHECKING:
    from monosem.train.sharded import Saver

TENSORS = "trainer.safetensors"
STATE = "trainer.json"
SHARDED = ".metadata"
"""A file that checkpoints of several processes have."""
COUNTED = ("silent_for", "fire_count", "maximum", "total", "last_fired")
"""What is counted for each latent, besides its parameters."""


@dataclass
class Progress:
    """Where training stands, besides its tensors."""

    step: int = 0
    """Steps done."""
    epoch: int = 0
    shard: int = 0
    row: int = 0
    """Place in the data after the last batch."""
    best_fvu: float | None = None
    """Lowest validation FVU so far."""
    stale: int = 0
    """Validations since then."""


class Checkpoint(NamedTuple):
    """A training run as it was after some step."""

    progress: Progress
    sae: Autoencoder
    step: dict[str, Any]
    """State of the `TrainStep`, weights included."""
    tracker: dict[str, Tensor]


def save(
    folder: Path,
    sae: Autoencoder,
    progress: Progress,
    step: Mapping[str, Any],
    tracker: Mapping[str, Tensor],
    keep: int = 1,
) -> Path:
    """Write `folder/step-N` and remove all but the `keep` newest checkpoints."""
    path, tensors = place(folder, progress), _besides(sae, step, tracker)
    with atomic_folder(path) as temporary:
        files.save(sae, temporary, {"steps": progress.step})
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / TENSORS)
        (temporary / STATE).write_text(json.dumps(asdict(progress)), encoding="utf-8")
    remove(folder, keep)
    return path


def save_together(
    saver: "Saver",
    folder: Path,
    sae: Autoencoder,
    progress: Progress,
    step: Mapping[str, Any],
    tracker: Mapping[str, Tensor],
    keep: int = 1,
) -> None:
    """`save` by all processes that hold the SAE's latents; it goes on in the background.

    Raises:
        TrainingError: the checkpoint before could not be written.
    """
    state = json.dumps(asdict(progress))

    def describe(temporary: Path) -> None:
        files.write_config(sae.config, temporary, {"steps": progress.step})
        (temporary / STATE).write_text(state, encoding="utf-8")

    weights = {f"sae.{name}": tensor.detach() for name, tensor in sae.state_dict().items()}
    tensors = {**weights, **_besides(sae, step, tracker)}
    saver.save(place(folder, progress), tensors, describe, lambda: remove(folder, keep))


def latest(folder: Path, exchange: Exchange = ALONE) -> Checkpoint | None:
    """The newest checkpoint in `folder`, if there is one.

    Args:
        exchange: with the processes that hold the other latents, all of which call this.

    Raises:
        TrainingError: it is damaged.
    """
    there = _found(folder)
    if not there:
        return None
    path = there[-1]
    try:
        progress = Progress(**json.loads((path / STATE).read_text(encoding="utf-8")))
        if (path / SHARDED).exists():
            from monosem.train import sharded  # takes seconds to load

            tensors = sharded.read(path, exchange)
            sae = files.assembled(files.read_config(path), _named("sae", tensors), exchange)
        else:
            sae = files.load(path, exchange=exchange)
            with safe_open(path / TENSORS, framework="pt") as file:
                n = sae.config.n
                tensors = {name: files.own_rows(file, name, n, exchange, by_latent(name)) for name in list(file.keys())}
    except (OSError, ValueError, TypeError, SafetensorError, SaeError) as error:
        raise TrainingError(f"{path}: damaged checkpoint ({error}); delete this folder to go on without it") from None
    weights = {name: tensor.detach() for name, tensor in sae.state_dict().items()}
    return Checkpoint(progress, sae, {**_named("step", tensors), **weights}, _named("tracker", tensors))


def newest(folder: Path) -> str | None:
    """The name of the newest checkpoint in `folder`, if there is one."""
    there = _found(folder)
    return there[-1].name if there else None


def remove(folder: Path, keep: int = 0) -> None:
    """Delete the checkpoints in `folder`, except the `keep` newest."""
    for path in _found(folder)[: -keep or None]:
        shutil.rmtree(path)


def by_latent(name: str) -> bool:
    """Whether a tensor of a checkpoint, such as `step.W_enc.first`, has a row for each latent."""
    return name.split(".")[1] in (*BY_LATENT, *COUNTED)


def place(folder: Path, progress: Progress) -> Path:
    """The checkpoint's folder."""
    return folder / f"step-{progress.step:08d}"


def _besides(sae: Autoencoder, step: Mapping[str, Any], tracker: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a checkpoint holds besides the SAE."""
    weights = sae.state_dict()
    tensors = {f"step.{name}": torch.as_tensor(value) for name, value in step.items() if name not in weights}
    return tensors | {f"tracker.{name}": tensor for name, tensor in tracker.items()}


def _named(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a part of the checkpoint."""
    return {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}


def _found(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir() and path.suffix != ".tmp")
