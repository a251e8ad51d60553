"""What is foreseen of one stage, and what it is foreseen from: the recipe, its work, the model, the machine.

Knows no stage: each has a function of its own that makes a `Cost` of a `Job`.
"""

from functools import cached_property
from typing import Literal, NamedTuple

import torch

from monosem.estimate.machine import GB, Machine
from monosem.estimate.measured import Measured
from monosem.estimate.workload import Workload
from monosem.lm.hookpoints import HookPoint
from monosem.lm.known import BYTES, KnownModel
from monosem.recipe import Recipe
from monosem.store.encoding import row_bytes

Limit = Literal["compute", "memory bandwidth", "disk", "network", "cores", "language model", "provider"]

ROW = 16
"""Bytes of a stored activation beside its values: sentence, position, token (docs/formats.md)."""
PYTHON = 0.42 * GB
"""A process that has loaded torch, transformers' tokenizers and pyarrow, and read a small corpus."""
START = 0.4
"""Seconds that a stage takes with nothing to do [m]."""
OPENING = 2.5
"""Seconds in which the models of Punkt, or a small language model, are read [m]."""
DISK_SPEED = 0.5 * GB
"""Bytes/s that a shuffle reads or writes; half of what one NVMe disk does, for both go on at once."""
READ_SPEED = 2.0 * GB
"""Bytes/s that a disk gives who only reads, from its beginning to its end."""
READING = {"cpu": 0.75, "cuda": 0.58 / 0.6}
"""Share of the bare products' speed at which a language model reads (benchmarks/LOG.md); on CUDA 58 % of the peak."""


class Cost(NamedTuple):
    """One stage."""

    stage: str
    disk: float = 0.0
    """Bytes that stay when it has ended."""
    peak_disk: float = 0.0
    """Bytes beyond those that it needs for a while."""
    memory: float = 0.0
    """Bytes of each process: of a GPU's memory where the stage runs on one."""
    seconds: float = 0.0
    limit: Limit = "cores"
    """What a faster one would shorten it most."""
    note: str = ""


class Job:
    """A recipe on a machine.

    Args:
        timed: a few real steps of both, where they were made.
    """

    def __init__(
        self, recipe: Recipe, work: Workload, model: KnownModel, on: Machine, timed: Measured | None = None
    ) -> None:
        self.recipe, self.work, self.model, self.on, self.timed = recipe, work, model, on, timed

    @cached_property
    def widths(self) -> list[int]:
        """Of the activations that training needs: one hook point's, or those that a transcoder reads and makes."""
        return [self.width(name) for name in self.recipe.trained_on]

    def width(self, hook_point: str) -> int:
        """Of the activations at a hook point."""
        shape = self.model.config
        return HookPoint.parse(hook_point, shape.n_layers).width(shape)

    def row(self, width: int) -> float:
        """Bytes of one activation on disk."""
        return row_bytes(getattr(torch, self.recipe.capture.dtype), width) + ROW

    @property
    def decoded(self) -> int:
        """Bytes of a stored value in memory: int8 becomes float32."""
        dtype: torch.dtype = getattr(torch, self.recipe.capture.dtype)
        return 4 if dtype == torch.int8 else dtype.itemsize

    @property
    def depth(self) -> int:
        """Layers that run for the deepest hook point."""
        points = [HookPoint.parse(name, self.model.config.n_layers) for name in self.recipe.capture.hook_points]
        return max(point.layer + (point.site != "resid_pre") for point in points)

    @property
    def layer(self) -> float:
        """Weights of one layer of the language model."""
        return (self.model.parameters - self.head * (1 if self.model.config.tied else 2)) / self.model.config.n_layers

    @property
    def head(self) -> int:
        """Weights of its output matrix."""
        return self.model.config.vocab_size * self.model.config.d_model

    @property
    def model_bytes(self) -> float:
        """Memory of the language model; on a CPU its products keep a packed copy of the layers (lm/products.py)."""
        packed = self.depth * self.layer * BYTES[self.recipe.model.dtype] * self.on.is_cpu
        return self.model.weight_bytes(self.recipe.model.dtype) + packed

    @property
    def reading_bytes(self) -> float:
        """Memory of what the language model holds while it reads a batch."""
        shape = self.model.config
        return self.recipe.capture.batch_tokens * (4 * shape.d_ff + 8 * shape.d_model) * 4.0

    @property
    def lm_rate(self) -> float:
        """FLOP/s of one device in the language model's type."""
        return self.on.bf16 if self.recipe.model.dtype == "bfloat16" else self.on.fp32

    @property
    def tokens_per_second(self) -> float:
        """That one device reads, up to the deepest hook point."""
        if self.timed is not None:
            return self.timed.tokens_per_second
        return self.lm_rate * READING["cpu" if self.on.is_cpu else "cuda"] / (2 * self.depth * self.layer)
