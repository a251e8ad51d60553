"""Several processes of one run: which one this is, and how they wait for each other, agree, and share out work.

`torchrun` starts them and puts RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT into the environment; `joined`
makes a `Ranks` of that, with a process group of torch.distributed: nccl for tensors of a GPU, gloo for all others. A
process on its own gets the same object without a group, and every call returns at once. Knows nothing of stages.
"""

import contextlib
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from monosem.errors import MonosemError, RunError
from monosem.progress import progress

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")
PATIENCE = 1800.0
"""Seconds that a rank waits for the others. One that was killed is noticed at once: its connections close."""
WEEK = 7 * 24 * 3600.0
"""Seconds that ranks wait for work that one of them does, or each in its own time."""


class Place(NamedTuple):
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Among the processes of its machine."""
    local_world: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Place":
        """As torchrun says it; alone, where it says nothing.

        Raises:
            RunError: a variable is missing, or no number, or out of range.
        """
        if "WORLD_SIZE" not in environment:
            return cls()
        world = _number(environment, "WORLD_SIZE", 1, 1 << 20)
        local_world = _number({"LOCAL_WORLD_SIZE": "1", **environment}, "LOCAL_WORLD_SIZE", 1, world)
        rank = _number(environment, "RANK", 0, world - 1)
        return cls(rank, world, _number(environment, "LOCAL_RANK", 0, local_world - 1), local_world)


class Counter:
    """A number that every rank adds to; safe to use from several threads.

    Counting up by one shares out work: a rank that is done with one piece takes the next that nobody has.
    """

    def __init__(self, key: str, ranks: "Ranks") -> None:
        self._key, self._ranks, self._alone, self._lock = key, ranks, 0, threading.Lock()

    def add(self, amount: int = 1) -> int:
        """Add; returns the sum of what all ranks have added so far. Raises as `Ranks.barrier`."""
        if self._ranks.store is not None:
            with self._ranks.naming(self._key):
                return self._ranks.store.add(self._key, amount)
        with self._lock:
            self._alone += amount
            return self._alone

    def numbers(self, stop: int) -> Iterator[int]:
        """Those of 0 to before `stop` that fall to this rank: each goes to one, in the order in which ranks ask."""
        while (number := self.add() - 1) < stop:
            yield number


class Ranks:
    """The processes of a run, seen from one of them. Calls that wait are made by all ranks, in the same order."""

    def __init__(
        self, place: Place | None = None, store: "Store | None" = None, group: "ProcessGroup | None" = None
    ) -> None:
        """Made by `joined`; without arguments one process alone."""
        self.rank, self.world, self.local_rank, self.local_world = place or Place()
        self.store, self._group, self._serial = store, group, itertools.count()

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes what exists once and speaks to the user."""
        return self.rank == 0

    def device(self, wanted: str) -> str:
        """The device of this rank where a recipe says `wanted`: each rank of a machine has a GPU of its own.

        Raises:
            RunError: `wanted` is one GPU for all, or the machine has fewer GPUs than ranks.
        """
        import torch

        if self.world == 1 or wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
            return wanted
        if wanted not in ("auto", "cuda"):
            raise RunError(f"device = {wanted!r} would be shared by {self.world} ranks; set it to 'auto' or 'cuda'")
        if (found := torch.cuda.device_count()) < self.local_world:
            raise RunError(
                f"{self.local_world} ranks on a machine with {found} GPUs; give torchrun --nproc-per-node {found}"
            )
        return f"cuda:{self.local_rank}"

    def barrier(self, what: str, seconds: float = PATIENCE) -> None:
        """Wait until all ranks are here.

        Args:
            what: names the place in errors.

        Raises:
            RunError: one has ended, or is not here after `seconds`.
        """
        if self.world > 1:
            import torch.distributed as dist

            with self.naming(what):
                dist.monitored_barrier(self._group, timedelta(seconds=seconds), wait_all_ranks=True)

    def broadcast(self, what: str, value: T) -> T:
        """Rank 0's small `value`, anything that pickles. Raises as `barrier`."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        self.barrier(what)
        values = [value]
        with self.naming(what):
            dist.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def gather(self, what: str, value: T) -> list[T]:
        """The small `value` of every rank, in their order, on every rank. Raises as `barrier`."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        self.barrier(what)
        values: list[Any] = [None] * self.world
        with self.naming(what):
            dist.all_gather_object(values, value, group=self._group)
        return values

    def once(self, what: str, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank; a `MonosemError` of rank 0 is raised on all. Raises as `barrier`."""
        made: T | MonosemError | None = None
        if self.first:
            try:
                made = make()
            except MonosemError as error:
                made = error
        found = self.broadcast(what, made)
        if isinstance(found, MonosemError):
            raise found
        return found  # type: ignore[return-value]

    def agree(self, what: str, value: Mapping[str, Any]) -> None:
        """Check that all ranks hold the same values, which are plain data.

        Raises:
            RunError: they differ; names the first key and two ranks. Also as `barrier`.
        """
        values = [_flat(mapping) for mapping in self.gather(what, value)]
        for rank, other in enumerate(values):
            for key in sorted({*values[0], *other}):
                if values[0].get(key) != other.get(key):
                    raise RunError(
                        f"ranks 0 and {rank} differ in {what}: {key} is {values[0].get(key)!r} and {other.get(key)!r}; "
                        "start all ranks with the same command and the same installation"
                    )

    def counter(self, what: str) -> Counter:
        """A new counter that begins at 0; all ranks make theirs in the same order."""
        return Counter(f"{what}/{next(self._serial)}", self)

    @contextlib.contextmanager
    def progress(self, what: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
        """As `monosem.progress.progress`, of the work of all ranks; the function may be called by several threads."""
        counter, lock, shown = self.counter(what), threading.Lock(), 0
        with progress(what, total, unit, done) as advance:

            def told(amount: int) -> None:
                nonlocal shown
                with lock:
                    everybody = counter.add(amount)
                    advance(everybody - shown)
                    shown = everybody

            yield told

    @contextlib.contextmanager
    def naming(self, what: str) -> Iterator[None]:
        """One `RunError` for whatever torch.distributed says at `what` of a rank that is gone."""
        try:
            yield
        except RuntimeError as error:
            raise RunError(
                f"rank {self.rank} of {self.world} lost another one at {what!r} ({str(error).splitlines()[0][:160]}); "
                "see what that one said last, and give the same command again: it goes on from here"
            ) from None


@contextlib.contextmanager
def joined(patience: float = PATIENCE) -> Iterator[Ranks]:
    """The ranks of this process, as its environment tells; the group ends with the block.

    Args:
        patience: seconds for the others to come, and for every exchange with them.

    Raises:
        RunError: the environment is incomplete, a rank does not come, or runs other code.
    """
    place = Place.of(os.environ)
    if place.world == 1:
        yield Ranks(place)
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise RunError(f"WORLD_SIZE = {place.world} without {' and '.join(missing)}; start the ranks with torchrun")
    waiting = timedelta(seconds=patience)
    with_gpus = torch.cuda.is_available()
    if with_gpus:
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    try:
        store, _, _ = next(rendezvous("env://", place.rank, place.world, timeout=waiting))
        if os.environ.get("GROUP_WORLD_SIZE") == "1":  # a lone torchrun keeps its store, and what ended ranks put there
            store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        backend = "cpu:gloo,cuda:nccl" if with_gpus else "gloo"
        dist.init_process_group(backend, timeout=waiting, world_size=place.world, rank=place.rank, store=store)
        group = dist.new_group(backend="gloo", timeout=waiting)
        assert isinstance(group, dist.ProcessGroup)
    except RuntimeError as error:
        raise RunError(
            f"rank {place.rank} of {place.world} cannot reach the others: {str(error).splitlines()[0][:200]}"
        ) from None
    try:
        ranks = Ranks(place, PrefixStore("monosem", store), group)
        ranks.agree("code", {"sources": code_version(), "torch": torch.__version__, "threads": torch.get_num_threads()})
        yield ranks
    finally:
        dist.destroy_process_group()


@lru_cache(maxsize=1)
def code_version() -> str:
    """A digest of monosem's sources, its version among them."""
    digest, home = hashlib.sha256(), Path(__file__).parent
    for file in sorted(home.rglob("*.py")):
        digest.update(file.relative_to(home).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _number(environment: Mapping[str, str], name: str, least: int, most: int) -> int:
    """A number that torchrun put into the environment."""
    text = environment.get(name)
    if text is None or not text.isdecimal() or not least <= int(text) <= most:
        raise RunError(f"{name} = {text!r}: expected a number from {least} to {most}; start the ranks with torchrun")
    return int(text)
