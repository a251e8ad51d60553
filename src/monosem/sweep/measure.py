"""What a sweep compares its SAEs by: FVU, L0 and dead latents on held-out activations, and the language model's loss.

The language model reads every held-out sentence once; each SAE takes its turn behind the hook point. Of several ranks
each measures some of the SAEs.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from monosem import progress, training
from monosem.atomic import write_text
from monosem.evaluate import downstream, held_out, reconstruction
from monosem.evaluate.replay import Replay
from monosem.lm.source import open_model
from monosem.ranks import WEEK
from monosem.run import Run, Stage
from monosem.sae import files
from monosem.sae.autoencoder import Autoencoder
from monosem.store import loader
from monosem.sweep.members import Opened, dealt
from monosem.train import tracking
from monosem.train.source import Source

BATCH = 4096  # activations measured at once
FILE = "measured.json"


def make(base: Run, members: Sequence[Opened]) -> dict[str, dict[str, Any]]:
    """The figures of every member, by name; those that are there already are kept. All ranks of `base` call this."""
    stages = {member.name: _open_stage(member) for member in members}
    missing = dealt([member for member in members if not stages[member.name].complete], base.ranks)
    if missing:
        saes = {member.name: files.load(member.run.folder("sae") / "final") for member in missing}
        progress.note(f"measuring {len(saes)} SAEs")
        source = training.open_source(base)
        found, rows = _measure(base, source, saes), source.rows
        for member in missing:
            stage = stages[member.name]
            stage.begin()
            figures = {**found[member.name], "dead": _dead(member, rows)}
            write_text(stage.path / FILE, json.dumps(figures, indent=2) + "\n")
            stage.add_shard(FILE, 1)
            stage.finish(**figures)
    base.ranks.barrier("sweep: figures", WEEK)
    return {name: json.loads((stage.path / FILE).read_text(encoding="utf-8")) for name, stage in stages.items()}


def _open_stage(member: Opened) -> Stage:
    part = {**member.run.recipe.evaluate.fingerprint_part(), "seed": member.run.recipe.seed}
    return member.run.stage(member.run.folder("measured"), part, [member.stage])


def _dead(member: Opened, left: int) -> int:
    """Latents that fired nowhere in the last `left` activations, or in all of a shorter training."""
    fired = torch.zeros(member.run.recipe.sae.n, dtype=torch.bool)
    for interval in reversed(tracking.read(member.run.path / "tracking")):
        fired |= interval.fire_count > 0
        left -= interval.activations
        if left <= 0:
            break
    return int((~fired).sum())


def _measure(base: Run, source: Source, saes: Mapping[str, Autoencoder]) -> dict[str, dict[str, Any]]:
    read, output = base.recipe.hook_point, base.recipe.output_hook_point
    batches, targets = base.folder("batches", read), base.folder("batches", output)
    methods = {name: reconstruction.through(sae) for name, sae in saes.items()}
    validation = source.held_out()  # a part of what is held out, where nothing is stored
    if base.recipe.train.source == "stored":
        validation = loader.validation(batches, BATCH, target=None if targets == batches else targets)
    stored = reconstruction.measure(validation, methods)
    replay = Replay(open_model(base.recipe.model), output, read)
    mean = torch.as_tensor((source.target() or source.known()).statistics.mean).float()
    ablations = {
        "zero ablation": reconstruction.constant(torch.zeros_like(mean)),
        "mean ablation": reconstruction.constant(mean),
    }
    one = next(iter(saes.values()))
    read = downstream.measure(
        replay,
        held_out.token_ids(base, replay.model.tokenizer),
        {**ablations, **methods},
        everywhere=(),
        dropped=downstream.Dropped.of(one.config, base.recipe.capture.drop_first),
        batch_tokens=base.recipe.evaluate.batch_tokens,
    )
    clean = read.ce_clean
    zero, average = (read.default[name].ce for name in ablations)
    return {
        name: {
            "fvu": stored[name].fvu,
            "l0": stored[name].l0,
            "ce_recovered_zero": downstream.recovered(read.default[name].ce, zero, clean),
            "ce_recovered_mean": downstream.recovered(read.default[name].ce, average, clean),
            "kl": read.default[name].kl,
        }
        for name in saes
    }
