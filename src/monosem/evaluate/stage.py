"""The stage `evaluate`: every figure of an SAE in one `evaluation.json`.

Flow: `reconstruction.json` (stored validation activations), `downstream.json` (held-out sentences through the language
model), `latents.parquet` (logit lens and output score of every live latent), `steering.json`, then all of it as one
object. Each file is a shard, so an interrupted stage goes on behind the last one that is whole.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from monosem import finetune
from monosem.atomic import atomic_path, write_text
from monosem.corpus import sentences
from monosem.evaluate import baselines, downstream, held_out, outputs, reconstruction, result, steering
from monosem.evaluate.reconstruction import Reconstruct
from monosem.evaluate.replay import Replay
from monosem.interpret import examples, tables
from monosem.lm.hookpoints import require_before
from monosem.lm.source import open_model
from monosem.run import Run, Stage
from monosem.sae import files
from monosem.store import activations, loader, prepare
from monosem.store.pairs import Sample
from monosem.store.stats import Statistics

BATCH = 4096  # activations measured at once
FITTED_BATCHES = 64  # of training activations, the first of the shuffled store, that baselines are fitted on


def open_stage(run: Run) -> Stage:
    """The stage's folder, compared with the recipe.

    Raises:
        RunError: its files were made with another recipe.
    """
    part = {**run.recipe.evaluate.fingerprint_part(), "seed": run.recipe.seed}
    return run.stage(run.folder("evaluation"), part, _upstream(run))


def make(run: Run) -> Stage:
    """Measure the run's SAE; a part that is there already is kept.

    Raises:
        RunError: a stage it reads is missing.
        StoreError: there is nothing held out to measure on.
        MonosemError: as the model, the store and the SAE.
    """
    stage = open_stage(run)
    if stage.complete:
        return stage
    for upstream in _upstream(run):
        upstream.require()
    stage.write(_Parts(run, stage.path).in_order())
    found = read(stage.path / "evaluation.json")
    stage.finish(**{key: found[key] for key in ("fvu", "l0", "ce_recovered_zero", "dead_fraction", "n_tokens")})
    return stage


def check(run: Run, verbs: Sequence[str], redo: str | None) -> None:  # noqa: ARG001
    """Refuse a transcoder whose target the language model computes before its source, before anything is done.

    Raises:
        ModelError: it is one, or a name is no hook point.
    """
    if run.recipe.output_hook_point != run.recipe.hook_point:
        require_before(run.recipe.hook_point, run.recipe.output_hook_point)


def read(file: Path) -> dict[str, Any]:
    """A JSON object that this stage wrote."""
    return json.loads(file.read_text(encoding="utf-8"))


def _upstream(run: Run) -> list[Stage]:
    return [
        sentences.open_stage(run),
        activations.open_stage(run, run.recipe.hook_point),
        *(prepare.open_stage(run, name) for name in run.recipe.trained_on),
        finetune.sae_stage(run),
        examples.open_stage(run),
    ]


class _Parts:
    """The files of the stage, and what they share; each method writes one and returns its number of rows."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.recipe, self.folder = run, run.recipe, folder
        self.batches = run.folder("batches", run.recipe.hook_point)
        self.sae = files.load(run.sae_folder)
        self.output = run.recipe.output_hook_point
        self.targets = run.folder("batches", self.output) if self.sae.config.transcodes else None

    def in_order(self) -> dict[str, Callable[[Path], int]]:
        return {
            "reconstruction.json": self.reconstruction,
            "downstream.json": self.downstream,
            "latents.parquet": self.latents,
            "steering.json": self.steering,
            "evaluation.json": self.evaluation,
        }

    def reconstruction(self, file: Path) -> int:
        measured = {name: method for name, method in self.methods.items() if name not in ("zero", "mean")}
        figures = reconstruction.measure(self._validation(), measured)
        found: dict[str, Any] = {name: figure._asdict() for name, figure in figures.items()}
        if isinstance(pca := measured.get("pca"), baselines.Pca):
            needed = baselines.pca_rank(pca, (batch.x for batch in self._validation()), figures["sae"].fvu)
            found["pca"] |= {"components": pca.components, "components_at_sae_fvu": needed}
        return _save(file, found, figures["sae"].rows)

    def downstream(self, file: Path) -> int:
        found = downstream.measure(
            self.replay,
            self.held_out,
            self.methods,
            everywhere=("sae", "zero", "mean"),
            dropped=downstream.Dropped.of(self.sae.config, self.recipe.capture.drop_first),
            batch_tokens=self.recipe.evaluate.batch_tokens,
        )
        measured = {
            "ce_clean": found.ce_clean,
            "default": {name: losses._asdict() for name, losses in found.default.items()},
            "all_tokens": {name: losses._asdict() for name, losses in found.all_tokens.items()},
            "figures": found.figures["sae"]._asdict(),
            "n_sentences": found.sentences,
            "n_tokens": found.tokens,
            "n_predictions": found.predictions,
            "n_edited": found.edited,
        }
        return _save(file, measured, found.sentences)

    def latents(self, file: Path) -> int:
        live = self.observed.filter(pa.array(self.observed["fire_count"].to_numpy() > 0))
        ids, maxima = live["latent"].to_numpy(), live["max"].to_numpy()
        latents, model = torch.tensor(ids, dtype=torch.int64), self.replay.model
        lens = outputs.lens(model, self.output, self.sae.W_dec.detach()[latents])
        scores = outputs.output_scores(self.replay, self.sae, latents, torch.tensor(maxima), lens.raised)
        columns = {"latent": pa.array(ids, pa.int32()), "output_score": scores.numpy(), "max": maxima}
        sides = {"raised": (lens.raised, lens.raised_by), "lowered": (lens.lowered, lens.lowered_by)}
        for side, (moved, effects) in sides.items():
            columns[side] = pa.array([model.tokenizer.pieces(row) for row in moved.tolist()], pa.list_(pa.string()))
            columns[f"{side}_ids"] = pa.array(moved.tolist(), pa.list_(pa.int32()))
            columns[f"{side}_by"] = pa.array(effects.tolist(), pa.list_(pa.float32()))
        with atomic_path(file) as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd", row_group_size=tables.LATENTS_IN_GROUP)
        return len(ids)

    def steering(self, file: Path) -> int:
        table = pq.read_table(self.folder / "latents.parquet")
        best = np.lexsort((table["latent"].to_numpy(), -table["output_score"].to_numpy()))
        chosen = table.take(best[: self.recipe.evaluate.steering_latents]).to_pylist()
        compared = steering.compare(
            self.replay,
            self.sae,
            [steering.Candidate(row["latent"], row["max"], row["raised_ids"]) for row in chosen],
            self.held_out,
            controls=self.recipe.evaluate.steering_controls,
            seed=self.recipe.seed,
        )
        rows: list[dict[str, Any]] = [
            {key: row[key] for key in ("latent", "output_score")} | {"top_tokens": row["raised"]} | outcome.figures()
            for row, outcome in zip(chosen, compared, strict=True)
        ]
        return _save(file, {"wins": sum(row["win"] for row in rows), "of": len(rows), "latents": rows}, len(rows))

    def evaluation(self, file: Path) -> int:
        density = np.zeros(self.sae.config.n)
        density[self.observed["latent"].to_numpy()] = self.observed["density"].to_numpy()
        window = activations.open_stage(self.run, self.recipe.hook_point).manifest.counts["rows"]
        parts = [read(self.folder / name) for name in ("reconstruction.json", "downstream.json", "steering.json")]
        return _save(file, result.assemble(*parts, density=density, window=window), 1)

    @cached_property
    def replay(self) -> Replay:
        return Replay(open_model(self.recipe.model), self.output, self.recipe.hook_point)

    @cached_property
    def methods(self) -> dict[str, Reconstruct]:
        """By name, what stands in for activations."""
        mean = torch.as_tensor(Statistics.load(self.targets or self.batches).mean).float()
        untrained = baselines.random_sae(self.sae, self.recipe.seed, next(self._training()))
        return {
            "sae": reconstruction.through(self.sae),
            "zero": reconstruction.constant(torch.zeros_like(mean)),
            "mean": reconstruction.constant(mean),
            "random_sae": reconstruction.through(untrained),
            **self._fitted(),
        }

    def _fitted(self) -> dict[str, Reconstruct]:
        if self.sae.config.transcodes:
            return {"affine": baselines.fit_affine(self._training())}
        return {"pca": baselines.fit_pca((batch.x for batch in self._training()), self.sae.config.k)}

    @cached_property
    def observed(self) -> pa.Table:
        """Every latent's statistics over the store."""
        return pq.read_table(self.run.folder("examples") / "latents.parquet")

    @cached_property
    def held_out(self) -> list[list[int]]:
        """Token ids of the held-out sentences."""
        return held_out.token_ids(self.run, self.replay.model.tokenizer)

    def _validation(self) -> Iterator[Sample]:
        return loader.validation(self.batches, BATCH, target=self.targets)

    def _training(self) -> Iterator[Sample]:
        """The beginning of the shuffled training set."""
        source = loader.Loader(self.batches, BATCH, self.recipe.seed, workers=0, target=self.targets)
        count = min(FITTED_BATCHES, max(1, source.rows // BATCH))
        return (Sample(batch.x, batch.target) for batch in islice(source, count))


def _save(file: Path, value: dict[str, Any], rows: int) -> int:
    write_text(file, json.dumps(value, indent=2) + "\n")
    return rows
