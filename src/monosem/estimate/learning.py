"""What training costs: its steps over a mesh of devices, the bytes they send, and fine-tuning behind it.

The mesh is the one that training itself would form, the bytes are those of `monosem.train.traffic`, while no latent is
dead. A live source adds the language model to every step.
"""

from typing import NamedTuple

from monosem.estimate.job import PYTHON, READ_SPEED, START, Cost, Job, Limit
from monosem.estimate.machine import GB
from monosem.train import traffic
from monosem.train.parallel import mesh_of

TRACKED = 350.0
"""Bytes of activation tracking for each latent (the demo)."""
CPU_STEP = 0.8
"""A step beside one fp32 product with the encoder (benchmarks/LOG.md: 0.64 to 0.81)."""
DENSER = {"jumprelu": 2.5, "relu": 6.0}
"""A step beside TopK's on a CPU; in its first steps JumpReLU's takes more, while many latents are near a threshold."""
SELECTION = 2 * GB
"""Pre-activations that are held at once on a GPU (docs/kernels.md)."""
FOLLOWED = 0.5
"""Share of the products' speed that a language model reaches which is differentiated, beside its forward pass."""


class Step(NamedTuple):
    """One training step."""

    seconds: float
    limit: Limit
    sent: float = 0.0
    """Bytes that each device sends."""


class Mesh(NamedTuple):
    """What of a step one device has."""

    rows: float
    """Activations of the batch that it sees."""
    latents: float
    """That it holds."""
    data: int
    latent: int

    @classmethod
    def of(cls, job: Job) -> "Mesh":
        """Raises RecipeError: latents or batches do not divide by the devices, or `train.mesh` is for others."""
        data, latent = mesh_of(job.recipe, job.on.devices)
        return cls(job.recipe.train.batch / data, job.recipe.sae.n / latent, data, latent)


def train(job: Job) -> Cost:
    """All steps; every device holds its share of the latents (docs/scale.md)."""
    sae, settings = job.recipe.sae, job.recipe.train
    rows = job.work.rows * (1 - job.recipe.prepare.validation_fraction)
    steps = max(1.0, rows * settings.epochs / settings.batch)
    weights = (2 * sae.n * _width(job) + sae.n + job.widths[0] + sae.skip * job.widths[0] * job.widths[-1]) * 4.0
    averages = 3 + (settings.ema is not None)
    one = step(job)
    return Cost(
        "train",
        weights + TRACKED * sae.n,
        weights * averages * (settings.keep_checkpoints + 1),  # the next one is written before the last one goes
        _memory(job, weights * averages),
        steps * one.seconds + START,
        one.limit,
        f"{steps:,.0f} steps of {1000 * one.seconds:,.1f} ms, {settings.batch / one.seconds:,.0f} activations/s",
    )


def step(job: Job) -> Step:
    """One step of the mesh, from the disk or the language model to the weights."""
    found = _cpu_step(job) if job.on.is_cpu else _gpu_step(job)
    if job.timed is not None:
        found = found._replace(seconds=job.timed.step_seconds)
    batch = job.recipe.train.batch
    if job.recipe.train.source == "live":
        read = batch * job.work.tokens / max(1, job.work.rows) / job.tokens_per_second
        limit: Limit = "language model" if read > found.seconds else found.limit
        return found._replace(seconds=read + found.seconds, limit=limit)
    read = batch * sum(map(job.row, job.widths)) / READ_SPEED  # ahead, while the step before is computed
    return found if found.seconds >= read else found._replace(seconds=read, limit="disk")


def _cpu_step(job: Job) -> Step:
    product = 2 * job.recipe.train.batch * job.recipe.sae.n * _width(job) / job.on.fp32
    return Step(product * CPU_STEP * DENSER.get(job.recipe.sae.sparsity, 1.0), "compute")


def _gpu_step(job: Job) -> Step:
    """Encoder product in bf16, rows of the weights read for every code, AdamW over every row (DESIGN 7)."""
    mesh, d, k = Mesh.of(job), _width(job), job.recipe.sae.k
    product = 2 * mesh.rows * mesh.latents * d / job.on.bf16
    gathered = mesh.rows * k / mesh.latent * d * (2 + 2 + 4 + 4)  # values, decoding, two gradients
    updated = mesh.latents * d * 2 * 4 * 6  # weight and two averages of both matrices, read and written
    memory = (gathered + updated) / (0.7 * job.on.bandwidth)
    sent = traffic.bytes_per_step(shape(job)) if job.on.devices > 1 else 0.0
    parts: dict[Limit, float] = {
        "compute": product,
        "memory bandwidth": memory,
        "network": sent / job.on.link if job.on.link else 0.0,
    }
    return Step(sum(parts.values()), max(parts, key=lambda part: parts[part]), sent)


def shape(job: Job) -> traffic.Shape:
    """What decides the bytes of a step."""
    sae, settings, mesh = job.recipe.sae, job.recipe.train, Mesh.of(job)
    d, *d_out = job.widths
    ranks = {size for size in settings.multi_k if size != sae.k}
    return traffic.Shape(
        d=d,
        n=sae.n,
        k=max(sae.k, *ranks) if ranks and not sae.prefixes else sae.k,
        batch=settings.batch,
        data=mesh.data,
        latent=mesh.latent,
        stored=job.decoded,
        reconstructions=1 + len([size for size in sae.prefixes if size != sae.n] if sae.prefixes else ranks),
        d_out=d_out[0] if d_out else 0,
        skip=sae.skip,
    )


def _memory(job: Job, state: float) -> float:
    """Of one process.

    Args:
        state: bytes of all weights and what the optimizer knows of them.
    """
    recipe, d, mesh = job.recipe, _width(job), Mesh.of(job)
    settings = recipe.train
    batch = min(mesh.rows, settings.micro_batch or mesh.rows)
    vectors = 8 * batch * d * 4.0 + mesh.rows * d * 4.0  # x, normalised, reconstruction, its gradient, those of AuxK
    held = settings.clip is not None or batch < mesh.rows or mesh.data > 1 or settings.decoder_norm == "free"
    own = state / mesh.latent + held * 2 * mesh.latents * d * 4.0  # gradients that have to be tensors
    own += 2 * mesh.latents * d * 2.0 if not job.on.is_cpu else mesh.latents * d * 2.0  # copies in bf16
    if settings.source == "live":
        width = sum(job.widths) * job.decoded
        own += job.model_bytes + job.reading_bytes + (settings.buffer + settings.validation_tokens) * width
    if job.on.is_cpu:
        blocks = 256 * recipe.sae.n * 4.0
        return PYTHON + own + vectors + blocks + 2 * settings.validation_tokens * d * 4.0
    return own + vectors + SELECTION + 0.6 * GB


def finetune(job: Job) -> Cost:
    """The clean pass, the spliced one, and the gradient back to the hook point; on one device."""
    settings, sae, shape = job.recipe.finetune, job.recipe.sae, job.model.config
    d = _width(job)
    weights = (2 * sae.n * d + sae.n) * 4.0
    behind = (shape.n_layers - job.depth) * job.layer + job.head
    flops = 2 * settings.tokens * (job.model.parameters + 3 * behind + 3 * sae.n * d)
    kept = settings.batch_tokens * ((shape.n_layers - job.depth) * 20 * shape.d_model + 3 * shape.vocab_size) * 4.0
    memory = PYTHON * job.on.is_cpu + job.model_bytes + kept + 4 * weights
    return Cost("finetune", weights, 2 * 3 * weights, memory, flops / (FOLLOWED * job.lm_rate) + START, "compute")


def _width(job: Job) -> float:
    """Of what is read and made, on average."""
    return sum(job.widths) / len(job.widths)
