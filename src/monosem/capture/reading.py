"""From token ids to the activations of whole sentences, already in the format of the store.

Knows nothing of files: what is read may lie on a GPU until `Captured.here` fetches it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monosem.lm.packed import Packed
from monosem.lm.protocol import LanguageModel
from monosem.store.encoding import Format, Stored

PUT_ROWS = 512  # encoded at once on a CPU
GPU_SHARE = 4  # a unit stays on the GPU until it is whole, if this many times its bytes are free there


class Captured(NamedTuple):
    """Activations of one unit and hook point, in the order of the sentences, before any are dropped."""

    form: Format
    stored: Stored
    """Of `[T, d]` activations."""
    norms: Tensor
    """`[T]` float32, of the activations as the model gave them."""
    errors: Tensor
    """`[T]` float32, squared distances of what is stored from what the model gave."""
    spreads: Tensor
    """`[T]` float32, squared distances of what the model gave from the centre."""

    @classmethod
    def empty(cls, form: Format, rows: int, device: torch.device) -> "Captured":
        return cls(form, form.empty(rows, device), *(torch.empty(rows, device=device) for _ in range(3)))

    def put(self, rows: Tensor, x: Tensor) -> None:
        """Store activations `x` as the rows of these numbers."""
        centre = self.form.centre.to(x.device)
        home = self.norms.device
        # few rows stay in a processor's cache; a GPU wants all of them
        count = PUT_ROWS if x.device.type == "cpu" else max(1, len(x))
        for chosen, part in zip(rows.to(home).split(count), x.split(count), strict=True):
            stored, exact = self.form.encode(part), part.float()
            for room, tensor in zip(self.stored, stored, strict=True):
                room[chosen] = tensor.to(home)
            lost = self.form.decode(stored) - exact
            for room, difference in ((self.errors, lost), (self.spreads, exact - centre)):
                room[chosen] = torch.linalg.vector_norm(difference, dim=1).square_().to(home)
            self.norms[chosen] = torch.linalg.vector_norm(exact, dim=1).to(home)

    def here(self) -> "Captured":
        """The same on this machine's own memory, fetched beside what the GPU goes on with."""
        if self.norms.device.type == "cpu":
            return self
        with torch.cuda.stream(torch.cuda.Stream(self.norms.device)):
            stored = Stored(*(tensor.cpu() for tensor in self.stored))
            return Captured(self.form, stored, self.norms.cpu(), self.errors.cpu(), self.spreads.cpu())


def read(
    model: LanguageModel,
    ids: Sequence[Sequence[int]],
    hook_points: Sequence[str],
    formats: Mapping[str, Format],
    batch_tokens: int,
    advance: Callable[[int], None],
) -> dict[str, Captured]:
    """The activations of sentences, which are packed by length: attention then works on sentences of one size.

    Args:
        formats: of each hook point; one without a format is kept in float32, as exact as can be.
        batch_tokens: most tokens that the model reads at once.
        advance: told of each batch's tokens.
    """
    lengths = np.array([len(sentence) for sentence in ids], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    captured: dict[str, Captured] = {}
    for batch in batches(lengths, batch_tokens):
        packed = Packed.pack([ids[sentence] for sentence in batch])
        rows = torch.from_numpy(starts[batch])[packed.sentence] + packed.position
        for name, x in model.activations(packed, hook_points).items():
            if name not in captured:
                form = formats.get(name) or Format(torch.float32, torch.zeros(x.shape[1]))
                total = int(lengths.sum())
                captured[name] = Captured.empty(form, total, _home(x, form, total * len(hook_points)))
            captured[name].put(rows, x)
        advance(packed.n_tokens)
    if model.device.type == "cuda":
        torch.cuda.current_stream(model.device).synchronize()  # what was put there may be fetched from now on
    return captured


def batches(lengths: NDArray[np.int64], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of the sentences by their length, in batches of at most `batch_tokens` or of one sentence."""
    order = np.argsort(lengths, kind="stable")
    start = filled = 0
    for stop, sentence in enumerate(order):
        if filled + lengths[sentence] > batch_tokens and stop > start:
            yield order[start:stop]
            start, filled = stop, 0
        filled += int(lengths[sentence])
    yield order[start:]


def _home(x: Tensor, form: Format, rows: int) -> torch.device:
    """Where a unit's activations are gathered: on the GPU, if `rows` of all hook points take a small part of it."""
    if x.device.type != "cuda":
        return torch.device("cpu")
    free, _ = torch.cuda.mem_get_info(x.device)
    return x.device if GPU_SHARE * rows * form.d * form.dtype.itemsize < free else torch.device("cpu")
