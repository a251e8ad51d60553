"""What each stage of a recipe asks of a machine: disk, memory and time, and which of its parts sets the pace.

Every formula stands beside the part it describes; shares that cannot be computed are measured ones, with their source.
Knows neither files nor the terminal.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from monosem.estimate.machine import GB, Machine
from monosem.estimate.workload import Workload
from monosem.lm.hookpoints import HookPoint
from monosem.lm.known import KnownModel
from monosem.recipe import Recipe
from monosem.store.encoding import row_bytes

Limit = Literal["compute", "memory bandwidth", "disk", "network", "cores"]

ROW = 16
"""Bytes of a stored activation beside its values: sentence, position, token (docs/formats.md)."""
CODE_ROW = 20
"""Bytes of a token in codes beside its latents: position, token, number of them, and its share of the sentence."""
TEXT = 0.4
"""Bytes on disk for a character of text, in Parquet with zstd (the embedded corpus)."""
PYTHON = 0.42 * GB
"""A process that has loaded torch, transformers' tokenizers and pyarrow, and read a small corpus."""
DISK_SPEED = 0.5 * GB
"""Bytes/s that a shuffle reads or writes; half of what one NVMe disk does, for both go on at once."""
CAPTURE_SHARE = {"cpu": 0.75, "cuda": 0.58 / 0.6}
"""Share of the bare products' speed that capture reaches (benchmarks/LOG.md); on CUDA 58 % of the peak."""


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
    note: str = ""


def sentences(recipe: Recipe, work: Workload) -> Cost:
    """Punkt reads 1.3 million characters a second on a core [m]."""
    del recipe
    return Cost("sentences", TEXT * work.characters, 0, PYTHON, work.characters / 1.3e6 / 4 + 1, "cores")


def capture(recipe: Recipe, work: Workload, model: KnownModel, machine: Machine, speed: float | None = None) -> Cost:
    """One pass of the layers up to the deepest hook point over every token, ranks side by side.

    Args:
        speed: tokens/s of one device, where it was measured.
    """
    points = [HookPoint.parse(name, model.config.n_layers) for name in recipe.capture.hook_points]
    widths = [point.width(model.config) for point in points]
    depth = max(point.layer + (point.site != "resid_pre") for point in points)
    layer = (model.parameters - _embeddings(model)) / model.config.n_layers
    flops = 2 * work.tokens * depth * layer
    rate = machine.bf16 if recipe.model.dtype == "bfloat16" else machine.fp32
    share = CAPTURE_SHARE["cpu" if machine.is_cpu else "cuda"]
    seconds = (work.tokens / speed if speed else flops / (rate * share)) / machine.devices
    disk = sum(work.rows * stored_row(recipe, width) for width in widths)
    weights = model.weight_bytes(recipe.model.dtype)
    layers = depth * layer * (2 if recipe.model.dtype == "bfloat16" else 4)
    passing = recipe.capture.batch_tokens * (4 * model.config.d_ff + 8 * model.config.d_model) * 4
    memory = weights + passing
    if machine.is_cpu:
        # the products' packed copies (lm/products.py), two shards of each hook point on their way to the disk
        memory += PYTHON + layers + 2 * len(widths) * recipe.capture.shard_mb * 2**20
    writing = disk / DISK_SPEED
    note = f"{work.tokens / max(seconds, 1e-9):,.0f} tokens/s, {depth} of {model.config.n_layers} layers"
    return Cost("capture", disk, 0, memory, max(seconds, writing), "compute" if seconds >= writing else "disk", note)


def prepare(recipe: Recipe, work: Workload, model: KnownModel) -> Cost:
    """Every row is read twice and written twice; with `consume` the source goes as it is read."""
    size = work.rows * sum(stored_row(recipe, width) for width in widths(recipe, model))
    memory = PYTHON + 2 * recipe.prepare.shard_mb * 2**20
    kept, passing = (0.0, size) if recipe.prepare.consume else (size, size)
    return Cost("prepare", kept, passing, memory, 4 * size / DISK_SPEED + 1, "disk")


def widths(recipe: Recipe, model: KnownModel) -> list[int]:
    """Of the activations that training needs: one hook point's, or those that a transcoder reads and makes."""
    points = (HookPoint.parse(name, model.config.n_layers) for name in recipe.trained_on)
    return [point.width(model.config) for point in points]


def stored_row(recipe: Recipe, width: int) -> float:
    """Bytes of one activation on disk."""
    return row_bytes(getattr(torch, recipe.capture.dtype), width) + ROW


def _embeddings(model: KnownModel) -> int:
    shape = model.config
    return shape.vocab_size * shape.d_model * (1 if shape.tied else 2)


def train(recipe: Recipe, work: Workload, model: KnownModel, machine: Machine, timed: float | None = None) -> Cost:
    """All steps; every device holds its share of the latents (docs/scale.md).

    Args:
        timed: seconds of one step, where it was measured.
    """
    sae, settings = recipe.sae, recipe.train
    wide = widths(recipe, model)
    d = sum(wide) / len(wide)
    rows = work.rows * (1 - recipe.prepare.validation_fraction)
    steps = max(1.0, rows * settings.epochs / settings.batch)
    weights = (2 * sae.n * d + sae.n + d + sae.skip * wide[0] * wide[-1]) * 4.0
    averages = 3 + (settings.ema is not None)
    step = _cpu_step(recipe, d, machine) if machine.is_cpu else _gpu_step(recipe, d, machine)
    if timed is not None:
        step = step._replace(seconds=timed)
    return Cost(
        "train",
        weights + TRACKED * sae.n,
        weights * averages * (settings.keep_checkpoints + 1),  # the next one is written before the last one goes
        _training_memory(recipe, d, weights * averages, machine),
        steps * step.seconds,
        step.limit,
        f"{steps:,.0f} steps of {1000 * step.seconds:,.1f} ms, {settings.batch / step.seconds:,.0f} activations/s",
    )


class Step(NamedTuple):
    """One training step."""

    seconds: float
    limit: Limit
    sent: float = 0.0
    """Bytes that each device sends."""


TRACKED = 350.0
"""Bytes of activation tracking for each latent (the demo)."""
CPU_STEP = 0.8
"""A step beside one fp32 product with the encoder (benchmarks/LOG.md: 0.64 to 0.81)."""
DENSER = {"topk": 1.0, "abstopk": 1.0, "batchtopk": 1.0, "jumprelu": 6.0, "relu": 6.0}
"""A step beside TopK's on a CPU, while many latents are near their threshold."""
SELECTION = 2 * GB
"""Pre-activations that are held at once on a GPU (docs/kernels.md)."""


def _cpu_step(recipe: Recipe, d: float, machine: Machine) -> Step:
    product = 2 * recipe.train.batch * recipe.sae.n * d / machine.fp32
    return Step(product * CPU_STEP * DENSER[recipe.sae.sparsity], "compute")


def _gpu_step(recipe: Recipe, d: float, machine: Machine) -> Step:
    """Encoder product in bf16, rows of the weights read for every code, AdamW over every row (DESIGN 7)."""
    batch, latents = recipe.train.batch, recipe.sae.n / machine.devices
    product = 2 * batch * latents * d / machine.bf16
    gathered = batch * recipe.sae.k / machine.devices * d * (2 + 2 + 4 + 4)  # values, decoding, two gradients
    updated = latents * d * 2 * 4 * 6  # weight and two averages of both matrices, read and written
    memory = (gathered + updated) / (0.7 * machine.bandwidth)
    sent = 0.0 if machine.devices == 1 else sent_bytes(recipe, [int(d)], machine.devices)
    network = sent / machine.link if machine.link else 0.0
    parts: dict[Limit, float] = {"compute": product, "memory bandwidth": memory, "network": network}
    return Step(sum(parts.values()), max(parts, key=lambda part: parts[part]), sent)


def sent_bytes(recipe: Recipe, wide: Sequence[int], devices: int) -> float:
    """Bytes that one latent rank sends in a step: its part of the batch, its candidates, the reconstruction's sum."""
    d = wide[-1]
    share = (devices - 1) / devices
    batch, k = recipe.train.batch, recipe.sae.k
    return share * (batch * d * 4 + batch * k * 12 + 2 * batch * d * 4)


def _training_memory(recipe: Recipe, d: float, state: float, machine: Machine) -> float:
    batch = recipe.train.micro_batch or recipe.train.batch
    vectors = 8 * batch * d * 4.0  # x, normalised, reconstruction, its gradient, those of AuxK
    share = state / machine.devices
    if machine.is_cpu:
        blocks = 256 * recipe.sae.n * 4.0
        validation = 2 * recipe.train.validation_tokens * d * 4.0
        return PYTHON + share + recipe.sae.n * d * 2.0 + vectors + blocks + validation
    copies = 2 * recipe.sae.n * d * 2.0 / machine.devices  # both matrices in bf16
    return share + copies + vectors / machine.devices + SELECTION + 0.6 * GB


def codes(recipe: Recipe, work: Workload, model: KnownModel, machine: Machine) -> Cost:
    """Every stored activation is encoded once more, and its codes are written (docs/formats.md)."""
    d, n = widths(recipe, model)[0], recipe.sae.n
    seconds = 1.05 * 2 * work.rows * n * d / ((machine.fp32 if machine.is_cpu else machine.bf16) * machine.devices)
    reading = work.rows * stored_row(recipe, d) / DISK_SPEED
    disk = work.rows * (CODE_ROW + recipe.sae.k * (6.0 if n <= 1 << 16 else 8.0))
    limit: Limit = "compute" if seconds >= reading else "disk"
    return Cost("codes", disk, 0, PYTHON + 2 * n * d * 4, max(seconds, reading) + 2, limit)


def examples(recipe: Recipe, work: Workload) -> Cost:
    """The codes are read once, and what is kept of every latent is written, with silent sentences of a pool."""
    settings, n = recipe.examples, recipe.sae.n
    drawn = max(settings.random, 10 * settings.quantiles, 50) + settings.test
    entries = n * min(settings.top * len(settings.aggregations) + drawn, work.sentences)
    bits = min(settings.pool, work.sentences) * n / 8
    seconds = 2e-7 * work.rows * recipe.sae.k + 1.5e-3 * n  # of a core [m]
    return Cost("examples", 25.0 * entries, 0, PYTHON + 60.0 * entries + bits, seconds + 5, "cores")


def evaluate(recipe: Recipe, work: Workload, model: KnownModel, machine: Machine) -> Cost:
    """Held-out sentences under some ten edits, and the steering of some latents beside random directions."""
    settings, n = recipe.evaluate, recipe.sae.n
    tokens = settings.sentences * work.tokens / max(1, work.sentences)
    steered = settings.steering_latents * (settings.steering_controls + 2) * 40
    rate = machine.bf16 if recipe.model.dtype == "bfloat16" else machine.fp32
    flops = 2 * model.parameters * (10 * tokens + steered) + 2 * n * model.config.vocab_size * model.config.d_model
    memory = PYTHON * machine.is_cpu + model.weight_bytes(recipe.model.dtype) * (1 + machine.is_cpu)
    memory += settings.batch_tokens * model.config.vocab_size * 4.0 * 3
    return Cost("evaluate", 450.0 * n, 0, memory, flops / (0.4 * rate) + 2, "compute")
