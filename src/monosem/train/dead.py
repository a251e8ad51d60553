"""Which latents have not fired for a while. The window is part of every statement about dead latents."""

import torch
from torch import Tensor


class DeadLatents:
    """Counts, for every latent, the activations seen since it last fired (its code value was above zero).

    Args:
        n: number of latents.
        window: a latent silent for at least this many activations is dead. A window in steps is that many batches.
        device: where the counters live.
    """

    def __init__(self, n: int, window: int, device: torch.device | str = "cpu") -> None:
        self.window = window
        self.silent_for = torch.zeros(n, dtype=torch.int64, device=device)
        """[n] activations since the latent last fired, or since the start."""

    def dead(self) -> Tensor:
        """[n_dead] int64, ascending."""
        return (self.silent_for >= self.window).nonzero().squeeze(1)

    def update(self, fired: Tensor, batch: int) -> None:
        """Count a batch of `batch` activations in which the latents `fired` (int64, repeats allowed) were active."""
        self.silent_for += batch
        self.silent_for[fired] = 0
