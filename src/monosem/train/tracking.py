"""What every latent did in each interval of training: how often, how strongly and when last it fired.

`observe` adds a batch's codes; `close_interval` writes one small file and starts the next. The open interval is
part of a checkpoint, so that a resumed run writes the same bytes. Where latents are spread over processes each counts
its own, and one writes all. Knows nothing of the SAE.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from monosem.atomic import atomic_path
from monosem.sae.exchange import ALONE, Exchange


class Interval(NamedTuple):
    """One interval of training, as `read` gives it."""

    first_step: int
    last_step: int
    activations: int
    """Activations the SAE saw in it."""
    fire_count: Tensor
    """[n] int32."""
    maximum: Tensor
    """[n] float32, 0 where the latent did not fire."""
    mean: Tensor
    """[n] float32, over the activations at which it fired."""
    last_fired: Tensor
    """[n] int64, the last step in which it fired since training began; -1: never."""


class Tracker:
    """Counts for the `n` latents of a process, written to `folder` an interval at a time."""

    def __init__(self, folder: Path, n: int, device: torch.device | str = "cpu", exchange: Exchange = ALONE) -> None:
        self.folder, self._exchange = folder, exchange
        self.span = torch.zeros(3, dtype=torch.int64)  # first step, last step, activations
        self.fire_count = torch.zeros(n, dtype=torch.int64, device=device)
        self.maximum = torch.zeros(n, device=device)
        self.total = torch.zeros(n, device=device)
        self.last_fired = torch.full((n,), -1, dtype=torch.int64, device=device)

    def observe(self, step: int, latents: Tensor, values: Tensor, activations: int) -> None:
        """Add a batch.

        Args:
            step: of training, from 0.
            latents: [E] int64, repeats allowed: the active ones of the batch.
            values: [E] float32, their code values.
            activations: B, the size of the batch.
        """
        if self.span[2] == 0:
            self.span[0] = step
        self.span[1] = step
        self.span[2] += activations
        self.fire_count += torch.bincount(latents, minlength=len(self.fire_count))
        self.total.index_add_(0, latents, values)
        self.maximum.scatter_reduce_(0, latents, values, "amax")
        self.last_fired[latents] = step

    def close_interval(self) -> Path:
        """Write the open interval and begin the next; returns its file."""
        path = self.folder / f"steps-{int(self.span[1]):08d}.safetensors"
        latents = {
            "fire_count": self.fire_count.int(),
            "maximum": self.maximum,
            "mean": self.total / self.fire_count.clamp_min(1),
            "last_fired": self.last_fired,
        }
        content = {"span": self.span} | {name: self._exchange.gather_latents(own) for name, own in latents.items()}
        if self._exchange.lead:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                save_file({name: tensor.cpu().contiguous() for name, tensor in content.items()}, temporary)
        for tensor in (self.span, self.fire_count, self.maximum, self.total):
            tensor.zero_()
        return path

    def state_dict(self) -> dict[str, Tensor]:
        """The open interval."""
        return {
            "span": self.span,
            "fire_count": self.fire_count,
            "maximum": self.maximum,
            "total": self.total,
            "last_fired": self.last_fired,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up an open interval."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])


def read(folder: Path) -> list[Interval]:
    """All intervals in `folder`, in order."""
    intervals = []
    for path in sorted(folder.glob("steps-*.safetensors")):
        tensors = load_file(path)
        first, last, activations = tensors["span"].tolist()
        named = {name: tensors[name] for name in ("fire_count", "maximum", "mean", "last_fired")}
        intervals.append(Interval(first, last, activations, **named))
    return intervals
