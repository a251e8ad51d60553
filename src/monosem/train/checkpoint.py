"""A training run on disk in the middle of its way: `sae/step-N/`, which loads directly as an SAE.

Beside the SAE's own files it holds `trainer.safetensors` (moments, counters, the open tracking interval) and
`trainer.json` (step, place in the data, early stopping). A checkpoint appears whole or not at all; the newest stays.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from monosem.atomic import atomic_folder
from monosem.errors import SaeError, TrainingError
from monosem.sae import files
from monosem.sae.autoencoder import Autoencoder

TENSORS = "trainer.safetensors"
STATE = "trainer.json"


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
    path = folder / f"step-{progress.step:08d}"
    weights = sae.state_dict()
    tensors = {f"step.{name}": torch.as_tensor(value) for name, value in step.items() if name not in weights}
    tensors |= {f"tracker.{name}": tensor for name, tensor in tracker.items()}
    with atomic_folder(path) as temporary:
        files.save(sae, temporary, {"steps": progress.step})
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / TENSORS)
        (temporary / STATE).write_text(json.dumps(asdict(progress)), encoding="utf-8")
    remove(folder, keep)
    return path


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint in `folder`, if there is one.

    Raises:
        TrainingError: it is damaged.
    """
    there = _found(folder)
    if not there:
        return None
    path = there[-1]
    try:
        progress = Progress(**json.loads((path / STATE).read_text(encoding="utf-8")))
        tensors = load_file(path / TENSORS)
        sae = files.load(path)
    except (OSError, ValueError, TypeError, SafetensorError, SaeError) as error:
        raise TrainingError(f"{path}: damaged checkpoint ({error}); delete this folder to go on without it") from None
    step = {name.removeprefix("step."): tensor for name, tensor in tensors.items() if name.startswith("step.")}
    tracker = {name.removeprefix("tracker."): tensor for name, tensor in tensors.items() if name.startswith("tracker.")}
    weights = {name: tensor.detach() for name, tensor in sae.state_dict().items()}
    return Checkpoint(progress, sae, {**step, **weights}, tracker)


def remove(folder: Path, keep: int = 0) -> None:
    """Delete the checkpoints in `folder`, except the `keep` newest."""
    for path in _found(folder)[: -keep or None]:
        shutil.rmtree(path)


def _found(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir() and path.suffix != ".tmp")
