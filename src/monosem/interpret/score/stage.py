"""The stage `score`: how good every explanation is, each score beside its baselines.

Flow: `terms.parquet` (detection by terms), `patterns.parquet` and `n2g.parquet` (token patterns) for all live latents,
`lexical_tokens.parquet` (tokens that explanations by terms point to); `random_sae.parquet`, the same for an untrained
SAE; `model.json`, what the run's own language model says of a few latents; `judged.json`, what a judge says, where the
recipe names one; then one table of all, `scores.parquet`, and `scores.json` over all latents. Each file is a shard, so
an interrupted stage goes on behind the last one that is whole.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from monosem import progress
from monosem.atomic import atomic_path, write_text
from monosem.evaluate import stage as evaluation
from monosem.interpret import encoding, examples, explain
from monosem.interpret.providers import paid
from monosem.interpret.score import by_judge, by_model, random_sae, rows, sample, token_score
from monosem.interpret.score.detection import Detection
from monosem.interpret.score.inputs import Inputs
from monosem.interpret.score.n2g import Learner, Patterns
from monosem.interpret.score.rows import Row
from monosem.interpret.score.token_score import TokenScore
from monosem.run import Run, Stage, read_manifest
from monosem.sae import files
from monosem.store import activations, shards

RESULT = "scores.json"
JUDGE = "judge"  # folder of what the judge was asked and answered
LATENTS_AT_ONCE = 2048
MEAN_ROWS = 4096  # whose mean the untrained SAE starts from
SAME = "same_"  # in front of scores of the SAE's own latents on the sentences that the untrained one encoded
TABLES = ("terms.parquet", "n2g.parquet", "lexical_tokens.parquet")  # with rows of the run's own latents
HEADLINES = {"lexical": "balanced_accuracy", "n2g": "f1"}


def open_stage(run: Run) -> Stage:
    """The stage's folder; writes nothing.

    Raises:
        RunError: its files were made with another recipe.
    """
    part = {**run.recipe.score.fingerprint_part(), "seed": run.recipe.seed}
    return run.stage(run.folder("scores"), part, _upstream(run))


def make(run: Run) -> Stage:
    """Write the files above.

    Raises:
        RunError: a stage that it reads is missing.
        MonosemError: as the model, the store and the judge's provider.
    """
    stage = open_stage(run)
    if stage.complete:
        return stage
    for upstream in _upstream(run):
        upstream.require()
    stage.write(_Parts(Inputs(run), stage).in_order())
    counts = json.loads((stage.path / RESULT).read_text(encoding="utf-8"))["summary"]
    stage.finish(**counts)
    return stage


def check(run: Run, verbs: Sequence[str], redo: str | None) -> None:  # noqa: ARG001 - part of what a stage may have
    """Before anything is deleted: a judge's answers that were paid for are kept.

    Raises:
        RunError: `--redo` would delete them.
    """
    if redo not in (None, "report"):
        folder = run.folder("scores")
        manifest = read_manifest(folder)
        paid.keep(folder / JUDGE, manifest.recipe["judge"] if manifest else None, redo)


def _upstream(run: Run) -> list[Stage]:
    return [
        activations.open_stage(run, run.recipe.hook_point),
        encoding.open_stage(run),
        examples.open_stage(run),
        explain.open_stage(run),
        evaluation.open_stage(run),
    ]


class _Parts:
    """The files of the stage, and what they share; each method writes one and returns its number of rows."""

    def __init__(self, inputs: Inputs, stage: Stage) -> None:
        self.inputs, self.stage = inputs, stage
        self.recipe, self.seed = inputs.recipe, inputs.run.recipe.seed

    def in_order(self) -> dict[str, Callable[[Path], int]]:
        return {
            "terms.parquet": self.terms,
            "patterns.parquet": self.patterns_table,
            "n2g.parquet": self.n2g,
            "lexical_tokens.parquet": self.lexical_tokens,
            "random_sae.parquet": self.random_sae,
            "model.json": self.model,
            "judged.json": self.judged,
            rows.SCORES: self.scores,
            RESULT: self.result,
        }

    def terms(self, file: Path) -> int:
        """Explanations by terms, and the tokens that a latent raises, as detectors of its sentences."""
        return rows.write(file, self._detected({"lexical": self.inputs.terms, "agreement": self.inputs.raised}))

    def _detected(self, lists: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Iterable[Row]:
        live = self.inputs.live
        with progress.progress("detection by terms", len(live), "latents") as advance:
            for start in range(0, len(live), LATENTS_AT_ONCE):
                tests = self.inputs.tests(live[start : start + LATENTS_AT_ONCE])
                texts = self.inputs.texts(tests)
                for name, terms in lists.items():
                    detection = Detection(name, terms, texts, self.recipe.shuffles, self.seed)
                    for test in tests:
                        yield from detection.judge(test)
                advance(len(tests))

    def patterns_table(self, file: Path) -> int:
        """The patterns of every latent that has any, most support first."""
        found = [(latent, pattern) for latent, one in self.patterns.items() for pattern in one.best]
        table = {
            "latent": pa.array([latent for latent, _ in found], pa.int32()),
            "pattern": by_model.spelled(self.inputs, [pattern for _, pattern in found]),
            "strength": pa.array([pattern.strength for _, pattern in found], pa.float32()),
            "support": pa.array([pattern.support for _, pattern in found], pa.int32()),
        }
        with atomic_path(file) as temporary:
            pq.write_table(pa.table(table), temporary, compression="zstd", row_group_size=rows.ROWS_IN_GROUP)
        return len(found)

    def n2g(self, file: Path) -> int:
        return rows.write(file, (row for latent in self.patterns for row in self.by_token.judge(latent)))

    def lexical_tokens(self, file: Path) -> int:
        """Explanations by terms, where they say at which tokens a latent fires."""
        drawn, told = self.inputs.sample, self.inputs.term_lists
        reserved, texts = self.inputs.reserved(drawn.sentence), self.inputs.texts_of(drawn)
        by_term = token_score.of_terms(drawn, texts, reserved, told, self.recipe.shuffles, self.seed)
        return rows.write(file, (row for latent in told for row in by_term.judge(latent)))

    def random_sae(self, file: Path) -> int:
        """Latents of an untrained SAE, and as many of the SAE's own (`same_`) under the same conditions."""
        if not self.recipe.random_latents:
            return rows.write(file, [])
        inputs, recipe, most = self.inputs, self.inputs.run.recipe, self.recipe.random_sentences
        own = sample.read(inputs.codes, inputs.sentences, inputs.tokenizer, most, recipe.corpus.max_tokens)
        store = shards.open_shards(inputs.run.folder("activations", recipe.hook_point))
        sae = files.load(inputs.run.sae_folder)
        first = shards.read(store.paths[0]).activations[:MEAN_ROWS]
        anew_by = random_sae.untrained(sae, self.seed, first)
        anew = own.with_codes(inputs.codes.n, random_sae.encoded(anew_by, inputs.codes, store, most))
        reserved = inputs.reserved(own.sentence)
        grader = random_sae.Grader(
            inputs.texts_of(own), reserved, recipe.explain.terms, self.recipe.shuffles, self.seed
        )
        found = grader.grade(anew, self.recipe.random_latents)
        found += [row._replace(score=SAME + row.score) for row in grader.grade(own, self.recipe.random_latents)]
        return rows.write(file, found)

    def model(self, file: Path) -> int:
        return _save(file, by_model.score(self.inputs, self.by_token))

    def judged(self, file: Path) -> int:
        written = _read(file.parent / "model.json")["latents"]
        return _save(file, by_judge.score(self.inputs, file.parent / JUDGE, self.stage.fingerprint, written))

    def scores(self, file: Path) -> int:
        """All rows of the run's own latents, by latent."""
        tables = [row for name in TABLES for row in rows.read(file.parent / name)]
        told = [Row(**row) for name in ("model.json", "judged.json") for row in _read(file.parent / name)["rows"]]
        return rows.write(file, [*tables, *told])

    def result(self, file: Path) -> int:
        """What holds over all latents."""
        own, random = rows.read(file.parent / rows.SCORES), rows.read(file.parent / "random_sae.parquet")
        scores = rows.aggregate(own, self.seed)
        for name, figures in rows.aggregate(random, self.seed).items():
            column = "same_sample" if name.startswith(SAME) else "random_sae"
            for figure, found in figures.items():
                scores.get(name.removeprefix(SAME), {}).get(figure, {})[column] = found["mean"]
        model, judged = (_read(file.parent / name) for name in ("model.json", "judged.json"))
        summary = _summary(scores, len(self.inputs.live))
        found = {
            "summary": summary,
            "scores": scores,
            "n2g": {"method": "stored activations", "ablated_on": len(model["latents"])},
            "model_tokens": model["tokens"],
            "judge": judged["bill"],
        }
        return _save(file, found)

    @cached_property
    def patterns(self) -> dict[int, Patterns]:
        """Of all live latents."""
        drawn = self.inputs.sample
        learner = Learner(drawn, self.inputs.reserved(drawn.sentence))
        found = {}
        with progress.progress("n2g", len(self.inputs.live), "latents") as advance:
            for latent in self.inputs.live:
                found[latent] = learner.learn(latent)
                advance(1)
        return found

    @cached_property
    def by_token(self) -> TokenScore:
        drawn = self.inputs.sample
        reserved = self.inputs.reserved(drawn.sentence)
        return token_score.of_patterns(drawn, reserved, self.patterns, self.recipe.shuffles, self.seed)


def _summary(scores: Mapping[str, Mapping[str, Mapping[str, Any]]], live: int) -> dict[str, Any]:
    """The figures of the stage's last line; shares are of all live latents, scored or not."""
    found: dict[str, Any] = {"live": live}
    for score, figure in HEADLINES.items():
        there = scores.get(score, {}).get(figure)
        if there is not None:
            found[f"{score}_{figure}"] = round(there["mean"], 4)
            found[f"{score}_beat_shuffled"] = round(there.get("beat_shuffled_p95", 0) / max(live, 1), 4)
    return found


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _save(file: Path, value: dict[str, Any]) -> int:
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    return len(value.get("rows", value))
