"""What the stages that read the codes of all latents cost: the codes themselves, examples, coactivation, groups.

Seconds of cores are those of the demo on its machine (benchmarks/LOG.md), and grow as the loops that they time. Several
devices share all but the groups.
"""

import math

from monosem.estimate.job import OPENING, PYTHON, READ_SPEED, START, Cost, Job, Limit
from monosem.interpret.coactivation import BLOCK_ENTRIES, TABLE_BYTES
from monosem.interpret.encoding import ENCODE_ROWS
from monosem.live.parts import PART_TOKENS

CODE_ROW = 20
"""Bytes of a token in codes beside its latents: position, token, number of them, and its share of the sentence."""
FILLED = 0.71
"""Share of the examples that are asked for which latents of a small corpus have [m]."""
SHOWN_BYTES, TEST_BYTES, NEGATIVE_BYTES, SENTENCE_BYTES = 24.4, 8.5, 4.5, 195.0
"""On disk, of an example, a sentence of a latent's test, a negative, and of each sentence's text and spans [m]."""
TESTS = 2.74
"""Sentences of a latent's test beside those that `examples.test` asks for: silent ones come with the firing ones."""
PARTNER_BYTES = 51.4
"""Of each of `coactivation.partners` of a latent: by two orders and by cosine [m]."""
GROUP_BYTES = 333.0
"""Of a latent's n-grams and clusters [m]."""


def codes(job: Job) -> Cost:
    """Every activation is encoded once, and its codes are written (docs/formats.md); a live one is read once more."""
    work, sae, d = job.work, job.recipe.sae, job.widths[0]
    rate = job.on.fp32 if job.on.is_cpu else job.on.bf16
    seconds = 1.2 * 2 * work.rows * sae.n * d / (rate * job.on.devices)
    disk = work.rows * (CODE_ROW + sae.k * (6.0 if sae.n <= 1 << 16 else 8.0))
    memory = 2.0 * sae.n * d * 4 + ENCODE_ROWS * sae.n * 4 + PYTHON * job.on.is_cpu
    if job.recipe.train.source == "live":
        reading = work.tokens / job.tokens_per_second / job.on.devices
        limit: Limit = "compute" if seconds >= reading else "language model"
        memory += job.model_bytes + job.reading_bytes + PART_TOKENS * d * job.decoded
        return Cost("codes", disk, 0, memory, seconds + reading + 2 * OPENING, limit)
    reading = work.rows * job.row(d) / READ_SPEED
    limit = "compute" if seconds >= reading else "disk"
    memory += 2 * job.recipe.capture.shard_mb * 2**20 * job.on.is_cpu  # the shard that is encoded and the next one
    return Cost("codes", disk, 0, memory, max(seconds, reading) + START, limit)


def examples(job: Job) -> Cost:
    """The codes are read once, and what is kept of every latent is written, with silent sentences of a pool."""
    settings, sae, work = job.recipe.examples, job.recipe.sae, job.work
    shown = settings.top * len(settings.aggregations) + settings.quantiles + settings.random
    reserved = 0.8 * settings.test_fraction * work.sentences  # of which a latent's test takes some
    tests = min(TESTS * settings.test, reserved)
    kept = [sae.n * each for each in (FILLED * min(shown, work.sentences), tests, 2.0 * settings.negatives)]
    sizes = (SHOWN_BYTES, TEST_BYTES, NEGATIVE_BYTES)
    disk = sum(count * size for count, size in zip(kept, sizes, strict=True))
    disk += SENTENCE_BYTES * min(work.sentences, kept[0])
    bits = min(settings.pool, work.sentences) * sae.n / 8
    seconds = 2e-7 * work.rows * sae.k / job.on.devices + 3.6e-6 * sum(kept)
    return Cost("examples", disk, 0, 1.35 * PYTHON + 60.0 * sum(kept) + bits, seconds + START, "cores")


def coactivation(job: Job) -> Cost:
    """Every pair of codes of a token is counted, for as many latents at once as the table holds."""
    settings, sae = job.recipe.coactivation, job.recipe.sae
    rows = job.work.rows * settings.fraction
    passes = math.ceil(4 * sae.n**2 / TABLE_BYTES)
    counting = (2.1e-8 * rows * sae.k**2 + 2e-8 * passes * rows * sae.k) / job.on.devices
    memory = PYTHON + min(TABLE_BYTES, 4 * sae.n**2) + 12.0 * min(BLOCK_ENTRIES, rows * sae.k)
    disk, note = sae.n * settings.partners * PARTNER_BYTES, f"passes over the codes: {passes}"
    return Cost("coactivation", disk, 0, memory, counting + 4.6e-8 * sae.n**2 + START, "cores", note)


def groups(job: Job) -> Cost:
    """N-grams and likeness of each latent's sentences."""
    n = job.recipe.sae.n
    seconds = 5.6e-3 * n + 1e-8 * job.work.rows * job.recipe.sae.k + START
    return Cost("groups", GROUP_BYTES * n, 0, 1.8 * PYTHON, seconds, "cores")
