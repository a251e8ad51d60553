"""What saying and measuring what latents mean costs: explanations, evaluation, scores, the report.

Rank 0 makes these stages, on one device.
"""

from monosem.estimate import money
from monosem.estimate.job import PYTHON, START, Cost, Job
from monosem.interpret.providers.carrier import BYTES_A_TOKEN

EVALUATED = 0.72
"""Share of the products' speed that evaluating reaches, which reads many wide rows of logits [m]."""
EDITS = 9
"""Ways in which every held-out sentence is read: five reconstructions and the plain one, three on all tokens too."""
STEERED_TOKENS = 48
"""Of the prompts that are read for one direction."""
SCORED_TOKENS = 3100
"""That the language model reads for the scores of one latent [m: 24,570 for 8]."""
EXPLANATION_BYTES, LEXICAL_BYTES, EVALUATION_BYTES, SCORE_BYTES, PAGE_BYTES = 455.0, 1250.0, 430.0, 458.0, 5300.0
"""On disk, of a latent [m]."""
ANSWERED = 3600.0
"""Seconds in which providers answer most batches; they promise a day."""


def explain(job: Job) -> Cost:
    """Offline from counted words, or asked of a provider, or of the run's own language model."""
    n, recipe = job.recipe.sae.n, job.recipe.explain
    found = money.explanations(job)
    if found is None:
        return Cost("explain", LEXICAL_BYTES * n, 0, 1.7 * PYTHON, 5e-3 * n + START, "cores")
    disk = n * EXPLANATION_BYTES + BYTES_A_TOKEN * (found.tokens.input + 2.0 * found.tokens.output)
    if recipe.provider != "lm":
        note = "most batches are answered in an hour"
        return Cost("explain", disk, 0, PYTHON, 4e-4 * n + ANSWERED, "provider", note)
    weights = job.model.weight_bytes(job.recipe.model.dtype)
    written = found.tokens.output * weights / (0.7 * job.on.bandwidth)  # every weight is read for a token
    seconds = 2 * found.tokens.input * job.model.parameters / (EVALUATED * job.lm_rate) + written
    return Cost("explain", disk, 0, PYTHON * job.on.is_cpu + 1.5 * weights, seconds, "memory bandwidth")


def evaluate(job: Job) -> Cost:
    """Held-out sentences under some edits, every latent's output, and steering beside random directions."""
    settings, n, shape, model = job.recipe.evaluate, job.recipe.sae.n, job.model.config, job.model
    tokens = settings.sentences * job.work.tokens / max(1, job.work.sentences)
    behind = (shape.n_layers - job.depth) * job.layer + job.head
    read = tokens * (job.depth * job.layer + EDITS * behind)
    tried = n * (4 * (behind - job.head) + 2 * job.head)  # the neutral prompt, its last logits, the logit lens
    steered = settings.steering_latents * (settings.steering_controls + 1) * STEERED_TOKENS * behind
    written = 3 * 20 * (settings.steering_latents + 1) * 4 * model.parameters  # a token at a time: slow
    seconds = 2 * (read + tried + steered + written) / (EVALUATED * job.lm_rate)
    memory = PYTHON * job.on.is_cpu + model.weight_bytes(job.recipe.model.dtype) * (1 + job.on.is_cpu)
    memory += min(settings.batch_tokens, tokens) * shape.vocab_size * 4.0 * 3
    return Cost("evaluate", EVALUATION_BYTES * n, 0, memory, seconds + 3 * START, "compute")


def score(job: Job) -> Cost:
    """Every latent's explanation and patterns on sentences of its own, an untrained SAE's, and the model's word."""
    settings, n = job.recipe.score, job.recipe.sae.n
    cores = n * (4.5e-5 * settings.shuffles + 3e-3) + 0.11 * settings.random_latents
    model = 2 * settings.sample * SCORED_TOKENS * job.model.parameters / (EVALUATED * job.lm_rate)
    memory = PYTHON * job.on.is_cpu + job.model.weight_bytes(job.recipe.model.dtype) * (1 + job.on.is_cpu)
    memory += settings.batch_tokens * job.model.config.vocab_size * 4.0 * 2
    memory += 240.0 * min(settings.sentences, job.work.sentences) * job.recipe.sae.k  # their codes
    if settings.judge in ("anthropic", "openai"):
        note = f"{settings.judge} answers most batches in an hour"
        return Cost("score", SCORE_BYTES * n, 0, memory, cores + model + START + ANSWERED, "provider", note)
    return Cost("score", SCORE_BYTES * n, 0, memory, cores + model + START, "cores" if cores > model else "compute")


def report(job: Job) -> Cost:
    """One page with the latents that are shown."""
    shown = min(job.recipe.report.latents, job.recipe.sae.n)
    return Cost("report", PAGE_BYTES * shown, 0, 1.5 * PYTHON, 0.006 * shown + START, "cores")
