"""A few real steps on this machine: what one token of capture and one step of training cost.

The model is loaded and reads sentences of random tokens, as long as the corpus's are; an SAE of the recipe's shape
trains on random activations. Both go through the very code of the stages.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from monosem.estimate.workload import Workload
from monosem.lm.packed import Packed
from monosem.lm.source import open_model
from monosem.recipe import Recipe
from monosem.store.pairs import Sample
from monosem.store.stats import Statistics
from monosem.train.settings import Plan, device_of, new_sae, step_settings
from monosem.train.source import Known
from monosem.train.step import TrainStep

TURNS = 3


class Measured(NamedTuple):
    """Medians over a few turns."""

    tokens_per_second: float
    """That capture reads."""
    step_seconds: float
    """Of one training step."""


def measure(recipe: Recipe, work: Workload, widths: Sequence[int]) -> Measured:
    """Time both; `widths` are those of the activations that training reads. Raises as loading the model does."""
    return Measured(_capture(recipe, work), _step(recipe, work, widths))


def _capture(recipe: Recipe, work: Workload) -> float:
    model = open_model(recipe.model)
    length = max(1, round(work.tokens / max(1, work.sentences)))
    count = max(1, recipe.capture.batch_tokens // length)
    ids = torch.randint(0, model.tokenizer.vocab_size, (count, length), generator=torch.Generator().manual_seed(0))
    packed = Packed.pack(ids.tolist(), model.device)
    points = list(recipe.capture.hook_points)
    return packed.n_tokens / _median(lambda: model.activations(packed, points))


def _step(recipe: Recipe, work: Workload, widths: Sequence[int]) -> float:
    device = device_of(recipe)
    generator = torch.Generator().manual_seed(0)
    # what is read, and what a transcoder makes of it
    x, *target = (torch.randn(recipe.train.batch, d, generator=generator) for d in widths)
    known = [Known(Statistics.of(values), None) for values in (x, *target)]
    sae = new_sae(recipe, known[0], Sample(x, *(target or [x])), target=known[1] if target else None).to(device)
    step = TrainStep(sae, step_settings(recipe, Plan.of(recipe, work.rows), widths[0]))
    batch = [values.to(device) for values in (x, *target)]
    return _median(lambda: step.step(*batch))


def _median(call: Callable[[], object]) -> float:
    """Seconds of a call, after one to warm up."""
    call()
    times = []
    for _ in range(TURNS):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
