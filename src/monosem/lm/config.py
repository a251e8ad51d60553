"""The shape of a Llama model, and how its rotary frequencies are stretched beyond the first training context.

It knows neither files nor tensors of weights: the readers of each checkpoint format fill it in.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.errors import ModelError


@dataclass(frozen=True)
class Llama3Scaling:
    """The `llama3` stretching of rotary frequencies: long wavelengths slowed by `factor`, short ones kept."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int

    def stretch(self, frequencies: Tensor) -> Tensor:
        """Return the stretched `frequencies [head_dim / 2]`, radians a token; in fp32, as Meta's code has it."""
        wavelength = 2 * math.pi / frequencies
        longest = self.original_context / self.low_freq_factor
        shortest = self.original_context / self.high_freq_factor
        slowed = torch.where(wavelength > longest, frequencies / self.factor, frequencies)
        smooth = (self.original_context / wavelength - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        # In the order of Meta's operations: the last bit of a frequency is 5e-4 radians at position 8,192.
        blend = (1 - smooth) * slowed / self.factor + smooth * slowed
        return torch.where((wavelength >= shortest) & (wavelength <= longest), blend, slowed)


@dataclass(frozen=True)
class RopeDivisors:
    """Stretching as GGUF files state it: one divisor for each rotary frequency (`rope_freqs.weight`)."""

    divisors: tuple[float, ...]

    def stretch(self, frequencies: Tensor) -> Tensor:
        """Return `frequencies [head_dim / 2]` divided one by one."""
        if len(self.divisors) != len(frequencies):
            raise ModelError(f"rope_freqs.weight holds {len(self.divisors)} divisors, expected {len(frequencies)}")
        return frequencies / torch.tensor(self.divisors, dtype=frequencies.dtype, device=frequencies.device)


RopeScaling = Llama3Scaling | RopeDivisors


@dataclass(frozen=True)
class ModelConfig:
    """The numbers that fix a Llama's shape."""

    d_model: int
    """Width d of the residual stream."""
    n_layers: int
    n_heads: int
    n_kv_heads: int
    """Key and value heads; each serves n_heads / n_kv_heads query heads."""
    d_ff: int
    """Width inside the MLP."""
    vocab_size: int
    """Rows of the embedding."""
    context_length: int
    """Longest sequence in tokens."""
    head_dim: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tied: bool = False
    """The embedding serves as the head."""

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise ModelError(f"{self.n_heads} heads cannot share {self.n_kv_heads} key/value heads evenly")
        if self.head_dim % 2:
            raise ModelError(f"head_dim {self.head_dim} is odd; rotary positions turn pairs")

    @property
    def z_width(self) -> int:
        """Width of all heads' outputs side by side (hook point `z`)."""
        return self.n_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all keys (or values) side by side."""
        return self.n_kv_heads * self.head_dim
