"""Bytes that the processes of a training step send each other: counted while it runs, and worked out beforehand.

As a ring sends them, which is what gloo and NCCL make of large tensors. `docs/scale.md` says what each term is.
"""

from dataclasses import dataclass, field

from torch import Tensor

FLOAT = 4


@dataclass
class Traffic:
    """Bytes that this process has sent, by what for."""

    sent: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.sent.values())

    def gather(self, what: str, own: Tensor, ranks: int) -> None:
        """Every rank's tensor goes to all."""
        self._add(what, (ranks - 1) * own.nbytes)

    def sum(self, what: str, tensor: Tensor, ranks: int) -> None:
        """A tensor of all ranks is added up, and goes to all."""
        self._add(what, 2 * (ranks - 1) * tensor.nbytes // ranks)

    def swap(self, what: str, tensor: Tensor, ranks: int) -> None:
        """Each rank gets a share of every rank's tensor."""
        self._add(what, (ranks - 1) * tensor.nbytes // ranks)

    def _add(self, what: str, count: int) -> None:
        self.sent[what] = self.sent.get(what, 0) + count


@dataclass(frozen=True)
class Shape:
    """What decides the bytes of a step of a TopK SAE."""

    d: int
    n: int
    k: int
    batch: int
    data: int
    latent: int
    stored: int = 2
    """Bytes of a stored value; 4 where the store is int8, which is decoded as it is read."""
    reconstructions: int = 1
    """More with `sae.prefixes` or `train.multi_k`."""
    d_out: int = 0
    """A transcoder's, which reads `d`. 0: what is made is what is read."""
    skip: bool = False
    """Whether a transcoder has an affine map beside its latents."""


def bytes_per_step(shape: Shape, aux_rows: int = 0, aux_width: int = 0) -> float:
    """Bytes that a rank sends in one step.

    Args:
        aux_rows: activations of the whole batch that take part in AuxK; 0 when nothing is dead.
        aux_width: candidates that a rank has for each: the lesser of its dead latents and `k_aux`; 0 where `k_aux`
            latents or fewer are dead, because then none is chosen.
    """
    rows, aux = shape.batch / shape.data, aux_rows / shape.data
    across = (shape.latent - 1) / shape.latent
    width, made, ranks = min(shape.k, shape.n // shape.latent), shape.d_out or shape.d, shape.data * shape.latent
    activations = across * rows * (shape.d + shape.d_out) * shape.stored
    candidates = across * (rows * FLOAT * (width + 1) + (aux * FLOAT * (aux_width + 1) if aux_width else 0))
    sums = 2 * across * (rows * shape.reconstructions + aux) * made * FLOAT
    skip = 2 * (ranks - 1) / ranks * shape.d * made * FLOAT * shape.skip
    return activations + candidates + sums + skip + gradient_bytes(shape.n / shape.latent, shape.d, shape.data, made)


def gradient_bytes(n: float, d: int, ranks: int, d_out: int = 0) -> float:
    """Bytes that a rank sends where `ranks` add up the gradients of the same `n` latents: all that plain DDP sends."""
    return 2 * (ranks - 1) / ranks * (d + (d_out or d) + 1) * n * FLOAT
