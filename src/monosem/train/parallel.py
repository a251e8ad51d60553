"""Training by several processes: the mesh they form, and an `Exchange` between them that counts what it sends.

Along `latent` processes hold shares of the latents, along `data` they see parts of each batch (ZeRO's and tensor
parallelism's two directions, for one sparse layer): what must be known of each other is a batch's width, not the
dictionary's. Selection is exact, and equal values go to the lowest latent. Knows nothing of runs and files.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from monosem.errors import RecipeError
from monosem.ranks import Ranks
from monosem.recipe import Recipe
from monosem.sae import files
from monosem.sae.autoencoder import BY_LATENT, Autoencoder
from monosem.sae.exchange import ALONE, Exchange, Line, Pending
from monosem.train.settings import device_of
from monosem.train.traffic import Traffic

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

DIGIT = 11
"""Bits of a value that one round of `kth_largest` finds out."""


def mesh_of(recipe: Recipe, world: int) -> tuple[int, int]:
    """Data ranks and latent ranks of a training by `world` processes.

    Raises:
        RecipeError: the mesh asks for another number of processes, or the latents or batches do not divide by it.
    """
    train = recipe.train
    data, latent = train.mesh or (1, world)
    if data * latent != world:
        raise RecipeError(
            f"train.mesh = [{data}, {latent}] is for {data * latent} ranks, and {world} were started; "
            f"leave it out, or start as many (torchrun --nproc-per-node)"
        )
    if recipe.sae.n % latent:
        raise RecipeError(
            f"sae.n = {recipe.sae.n:,} does not divide by the {latent} latent ranks of the mesh [{data}, {latent}]; "
            f"take n = {-(-recipe.sae.n // latent) * latent:,}, or another mesh"
        )
    if train.batch % world:
        raise RecipeError(
            f"train.batch = {train.batch:,} does not divide by {world} ranks; "
            f"take {-(-train.batch // world) * world:,}, or another number of ranks"
        )
    return data, latent


def exchange_of(recipe: Recipe, ranks: Ranks) -> Exchange:
    """What connects this process with the others that train a recipe's SAE.

    Raises:
        RecipeError: as `mesh_of`.
    """
    data, latent = mesh_of(recipe, ranks.world)
    if ranks.world == 1:
        return ALONE
    from torch.distributed.device_mesh import init_device_mesh

    device = device_of(recipe, ranks)
    return Together(init_device_mesh(device.type, (data, latent), mesh_dim_names=("data", "latent")), device, ranks)


class Together(Exchange):
    """This process among those of a `(data, latent)` mesh."""

    def __init__(self, mesh: "DeviceMesh", device: torch.device, ranks: Ranks) -> None:
        data, latent = (Line(mesh.get_local_rank(name), mesh[name].size()) for name in ("data", "latent"))
        super().__init__(data, latent)
        self.traffic = Traffic()
        self._data, self._latent = mesh.get_group("data"), mesh.get_group("latent")
        self._device, self._ranks = device, ranks

    def each(self, number: int) -> list[int]:
        if self.latent.ranks == 1:
            return [number]
        return self.gather_latents(torch.tensor([number], device=self._device)).tolist()

    def most(self, number: int) -> Callable[[], int]:
        told = torch.tensor([number])  # on the CPU, so that no GPU waits for it
        arriving = self._reduce("figures", told, None, dist.ReduceOp.MAX)
        return lambda: int(arriving())

    def total(self, numbers: Sequence[float]) -> list[float]:
        sums = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        self._reduce("figures", sums, None, dist.ReduceOp.SUM)()
        return sums.tolist()

    def add_up(self, partial: Tensor) -> Pending:
        return self._reduce("reconstructions", partial, self._latent, dist.ReduceOp.SUM)

    def add_data(self, partial: Tensor) -> Pending:
        return self._reduce("gradients", partial, self._data, dist.ReduceOp.SUM)

    def add_all(self, partial: Tensor) -> Pending:
        return self._reduce("shared gradients", partial, None, dist.ReduceOp.SUM)

    def smallest(self, value: Tensor) -> Tensor:
        return self._reduce("figures", value.clone(), self._latent, dist.ReduceOp.MIN)()

    def kept(self, strengths: Tensor, k: int, width: int) -> Tensor:
        """See `Exchange.kept`: each vector is judged by one rank, which sees only values and sends back only counts."""
        ranks, (rows, columns) = self.latent.ranks, strengths.shape
        if ranks == 1 or not rows:
            return super().kept(strengths, k, width)
        share = -(-rows // ranks)
        sent = strengths.new_full((ranks * share, width), -torch.inf)
        sent[:rows, :columns] = strengths
        judged = self._swap("candidates", sent).view(ranks, share, width)
        border = torch.topk(judged.transpose(0, 1).flatten(1), k, dim=1, sorted=False).values.amin(1)
        above = (judged > border[:, None]).sum(2)
        equal = (judged == border[:, None]).sum(2)
        left = k - above.sum(0) - equal.cumsum(0) + equal  # for the ties of this rank, after those of lower ones
        counts = (above + left.clamp_min(0).minimum(equal)).to(torch.int32)
        return self._swap("candidates", counts.view(-1, 1)).view(-1)[:rows].long()

    def kth_largest(self, values: Tensor, k: int) -> Tensor:
        """See `Exchange.kth_largest`: a radix select, whose rounds add up how many values have which next digit."""
        bits, dtype = 8 * values.element_size(), values.dtype
        keys = values.view(torch.int64 if bits == 64 else torch.int32).long()
        turned = (1 << (bits - 1)) - 1
        keys = torch.where(keys < 0, keys ^ turned, keys)  # signed integers in the order of the values
        found, place, left = 0, bits, k
        while place:
            width = min(DIGIT, place)
            place -= width
            # the first digit holds the sign: shifted to begin at 0
            digit = (
                (keys >> place) + (1 << (width - 1)) if place + width == bits else (keys >> place) & ((1 << width) - 1)
            )
            counts = torch.bincount(digit, minlength=1 << width)
            self._reduce("figures", counts, None, dist.ReduceOp.SUM)()
            reached = counts.flip(0).cumsum(0)
            top = int((reached < left).sum())
            left -= int(reached[top - 1]) if top else 0
            chosen = (1 << width) - 1 - top
            found = (found << width) + (chosen - (1 << (width - 1)) if place + width == bits else chosen)
            keys = keys[digit == chosen]
        found = found ^ turned if found < 0 else found
        whole = torch.tensor(found, dtype=torch.int64 if bits == 64 else torch.int32, device=values.device)
        return whole.view(dtype)

    def earliest(self, places: Tensor, count: int) -> int:
        """See `Exchange.earliest`; ties are few, so all ranks see all of them."""
        everybody = self._gather_uneven("figures", places, None)
        if len(everybody) <= count:
            return len(places)
        border = everybody.sort().values[count - 1] if count else -1
        return int((places <= border).sum())

    def gather_data(self, entries: Tensor) -> Tensor:
        return entries if self.data.ranks == 1 else self._gather_uneven("entries", entries, self._data)

    def gather_latents(self, rows: Tensor) -> Tensor:
        return rows if self.latent.ranks == 1 else self.gather(rows, self._latent, "latents")()

    def gather(self, own: Tensor, group: Any, what: str, out: Tensor | None = None) -> Pending:
        """The equally large tensors of all ranks of a group behind one another."""
        ranks = dist.get_world_size(group)
        own = own.contiguous()
        gathered = own.new_empty((ranks * len(own), *own.shape[1:])) if out is None else out
        self.traffic.gather(what, own, ranks)
        with self._naming(what):  # as bytes, which every backend can move
            work = dist.all_gather_single(_raw(gathered), _raw(own), group=group, async_op=True)
        return self._pending(work, what, gathered, own)

    def gather_batch(self, own: Tensor, out: Tensor) -> Pending:
        """The activations of a data rank, of which each latent rank has read a part."""
        return self.gather(own, self._latent, "activations", out)

    def whole_sae(self, sae: Autoencoder) -> Autoencoder | None:
        """The SAE of which every process holds some latents, on the CPU of the leading one; None elsewhere."""
        tensors = {name: tensor.detach().cpu() for name, tensor in sae.state_dict().items()}
        for name in BY_LATENT:
            if name in tensors and self.data.rank == 0:
                own = tensors[name].contiguous()
                full = own.new_empty((len(own) * self.latent.ranks if self.lead else 0, *own.shape[1:]))
                with self._naming("the SAE"):
                    dist.gather(own, list(full.split(len(own))) if self.lead else None, dst=0, group=self._latent)
                tensors[name] = full
        return files.assembled(sae.config, tensors) if self.lead else None

    def _gather_uneven(self, what: str, own: Tensor, group: Any) -> Tensor:
        lengths = self.gather(torch.tensor([len(own)], device=self._device), group, what)().tolist()
        padded = own.new_zeros((max(lengths), *own.shape[1:]))
        padded[: len(own)] = own
        parts = self.gather(padded, group, what)().split(max(lengths)) if max(lengths) else []
        return torch.cat([own[:0], *(part[:length] for part, length in zip(parts, lengths, strict=False))])

    def _reduce(self, what: str, tensor: Tensor, group: Any, how: Any) -> Pending:
        ranks = dist.get_world_size(group)
        if ranks == 1:
            return lambda: tensor
        self.traffic.sum(what, tensor, ranks)
        with self._naming(what):
            work = dist.all_reduce(tensor, how, group, async_op=True)
        return self._pending(work, what, tensor)

    def _swap(self, what: str, tensor: Tensor) -> Tensor:
        """Rank i's j-th part goes to rank j, as its i-th."""
        swapped = torch.empty_like(tensor)
        self.traffic.swap(what, tensor, self.latent.ranks)
        with self._naming(what):
            dist.all_to_all_single(swapped, tensor, group=self._latent)
        return swapped

    def _pending(self, work: Any, what: str, result: Tensor, *held: Tensor) -> Pending:
        def wait() -> Tensor:
            nonlocal held
            with self._naming(what):
                work.wait()
            held = ()  # the backend read them until now
            return result

        return wait

    def _naming(self, what: str) -> contextlib.AbstractContextManager[None]:
        return self._ranks.naming(f"training: {what}")


def _raw(tensor: Tensor) -> Tensor:
    return tensor.view(-1).view(torch.uint8)
