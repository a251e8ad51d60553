"""What the stages before training cost: sentences, their activations, and the shuffled store."""

from monosem.estimate.job import DISK_SPEED, OPENING, PYTHON, START, Cost, Job, Limit

TEXT = 0.4
"""Bytes on disk for a character of text, in Parquet with zstd (the embedded corpus)."""
SPLIT = 1.3e6
"""Characters that Punkt splits in a second on a core [m]."""


def sentences(job: Job) -> Cost:
    """Punkt on all cores of the machine, reckoned as four."""
    characters = job.work.characters
    return Cost("sentences", TEXT * characters, 0, PYTHON, characters / SPLIT / 4 + OPENING, "cores")


def capture(job: Job) -> Cost:
    """One pass of the layers up to the deepest hook point over every token, ranks side by side."""
    recipe, points = job.recipe, job.recipe.capture.hook_points
    seconds = job.work.tokens / job.tokens_per_second / job.on.devices
    disk = sum(job.work.rows * job.row(job.width(name)) for name in points)
    memory = job.model_bytes + job.reading_bytes
    if job.on.is_cpu:  # and three shards of each hook point on their way to the disk (docs/scale.md)
        memory += PYTHON + 3 * len(points) * recipe.capture.shard_mb * 2**20
    writing = disk / DISK_SPEED
    speed = job.work.tokens / max(seconds, writing, 1e-9)
    note = f"{speed:,.0f} tokens/s, {job.depth} of {job.model.config.n_layers} layers"
    limit: Limit = "compute" if seconds >= writing else "disk"
    return Cost("capture", disk, 0, memory, max(seconds, writing) + 2 * OPENING, limit, note)


def prepare(job: Job) -> Cost:
    """Every row is read twice and written twice; with `consume` the source goes as it is read."""
    size = job.work.rows * sum(map(job.row, job.widths))
    memory = PYTHON + 2 * job.recipe.prepare.shard_mb * 2**20
    kept, passing = (0.0, size) if job.recipe.prepare.consume else (size, size)
    return Cost("prepare", kept, passing, memory, 4 * size / DISK_SPEED + START, "disk")
