"""Checkpoints that several processes write together, each its own latents, while training goes on.

They are those of torch.distributed.checkpoint: tensors are known by their place in the whole, so that any number of
processes reads what any other number wrote. A copy is taken at once; a thread writes it and then gives the folder its
name. The single process has a format of its own (`monosem.train.checkpoint`), which every mesh reads as well.
"""

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from monosem.atomic import sync_folder
from monosem.errors import TrainingError
from monosem.sae.exchange import Exchange
from monosem.train.checkpoint import by_latent
from monosem.train.parallel import Together


class Saver:
    """Writes checkpoints of all processes; every call is made by each of them."""

    def __init__(self, together: Together) -> None:
        self._together = together
        self._group, self._mesh = _group(), _mesh(together)
        self._copies: dict[str, Tensor] = {}
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def save(
        self,
        path: Path,
        tensors: Mapping[str, Tensor],
        describe: Callable[[Path], None],
        saved: Callable[[], None],
    ) -> None:
        """Begin to write the folder `path`; the tensors may change once this returns.

        Args:
            tensors: by name; see `checkpoint.by_latent`.
            describe: one process puts into the folder what is no tensor.
            saved: and does this once the folder has its name.

        Raises:
            TrainingError: the checkpoint before could not be written.
        """
        self.wait()
        for name, tensor in tensors.items():
            if name not in self._copies:
                self._copies[name] = torch.empty_like(tensor, device="cpu", memory_format=torch.contiguous_format)
            self._copies[name].copy_(tensor)
        state = {name: _placed(self._copies[name], name, self._mesh) for name in tensors}
        self._writing = self._thread.submit(self._write, path, state, describe, saved)

    def wait(self) -> None:
        """Until everything is on disk. Raises as `save`."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(
        self, path: Path, state: dict[str, Any], describe: Callable[[Path], None], saved: Callable[[], None]
    ) -> None:
        temporary = path.with_name(path.name + ".tmp")
        try:
            if self._together.lead:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
            dist.barrier(self._group)
            save(state, storage_writer=FileSystemWriter(temporary), process_group=self._group)
            if self._together.lead:
                describe(temporary)
                temporary.replace(path)
                sync_folder(path.parent)
                saved()
        except (CheckpointException, RuntimeError, OSError) as error:
            raise TrainingError(f"{path}: the checkpoint was not written ({_first(error)})") from None


def read(path: Path, exchange: Exchange) -> dict[str, Tensor]:
    """The tensors of a checkpoint; of those that are by latent, the rows of this process. All processes call it.

    Raises:
        TrainingError: a file is missing or damaged, or the latents do not divide by the latent ranks.
    """
    reader = FileSystemReader(path)
    try:
        sizes = reader.read_metadata().state_dict_metadata
        tensors = {name: _room(known, name, exchange) for name, known in sizes.items()}
        if isinstance(exchange, Together):
            mesh = _mesh(exchange)
            state = {name: _placed(tensor, name, mesh) for name, tensor in tensors.items()}
            load(state, storage_reader=reader, process_group=_group())
        else:
            load(dict(tensors), storage_reader=reader, no_dist=True)
    except (CheckpointException, RuntimeError, OSError, EOFError, KeyError) as error:
        raise TrainingError(
            f"{path}: damaged checkpoint ({_first(error)}); delete this folder to go on without it"
        ) from None
    return tensors


def _room(known: Any, name: str, exchange: Exchange) -> Tensor:
    """Memory for this process's part of a tensor."""
    shape = list(known.size)
    if by_latent(name):
        shape[0] = len(exchange.latents(shape[0]))
    return torch.empty(shape, dtype=known.properties.dtype)


def _group() -> dist.ProcessGroup:
    """Of all processes, for a checkpoint alone: its thread and training's do not wait for each other."""
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    return group


def _mesh(together: Together) -> DeviceMesh:
    """The mesh of the copies on the CPU."""
    size = (together.data.ranks, together.latent.ranks)
    return init_device_mesh("cpu", size, mesh_dim_names=("data", "latent"))


def _placed(tensor: Tensor, name: str, mesh: DeviceMesh) -> DTensor:
    """The tensor as a part of the whole: rows of latents are spread over the latent ranks, all else is everywhere."""
    placements = [Replicate(), Shard(0) if by_latent(name) else Replicate()]
    return DTensor.from_local(tensor, mesh, placements, run_check=False)


def _first(error: BaseException) -> str:
    """One line of what torch.distributed.checkpoint reports, which may be the tracebacks of all ranks."""
    failures = getattr(error, "failures", None)
    if failures:
        rank, (failed, _) = next(iter(failures.items()))
        return f"rank {rank}: {_first(failed)}"
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
