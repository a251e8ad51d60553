"""A run folder as its stages would leave it, made of numbers drawn at random: what the page's views are tested on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from monosem.recipe import Recipe
from monosem.run import Run

N, SENTENCES, TOKENS, TOP = 40, 60, 8, 5
WAYS = ("last", "max", "mean")  # as the files are sorted
WORDS = ("ship", "violin", "prime", "Überfluß", "coral", "rope", "melody", "naïve")
DEAD, DENSE, TOKEN_ONLY, UNEXPLAINED = 7, 9, 11, 13


def page_run(path: Path, seed: int = 0, evil: str = "") -> Run:
    """Examples, explanations, evaluation, metrics and tracking of 40 latents; `evil` stands in every text."""
    rng = np.random.default_rng(seed)
    run = Run(path, Recipe(name=path.name))
    path.mkdir(parents=True)
    run.save_recipe()
    _examples(path / "examples", rng, evil)
    rows = [
        {
            "latent": latent,
            "explanation": None if latent == UNEXPLAINED else f"about {WORDS[latent % 8]} {latent}{evil}",
            "certainty": None if latent == UNEXPLAINED else latent / N,
            "provider": "lexical",
            "reason": "too few examples" if latent == UNEXPLAINED else None,
            "provenance": {"aggregation": "max", "held_examples": 3},
        }
        for latent in range(N)
    ]
    _lines(path / "explanations" / "explanations.jsonl", rows)
    live = [latent for latent in range(N) if latent != DEAD]
    tokens = [[f" up{latent}{evil}", " more"] for latent in live]
    _table(
        path / "evaluation" / "latents.parquet",
        {
            "latent": pa.array(live, pa.int32()),
            "output_score": rng.random(len(live)),
            "raised": tokens,
            "lowered": tokens,
            "raised_by": [[1.5, 0.5]] * len(live),
        },
    )
    steps = [
        {"step": i, "loss": 1 / i, "fvu": 1 / i, "dead": 3, "l0": 4.0, "lr": 1e-3, "epoch": i / 50}
        for i in range(1, 101)
    ]
    steps[50]["validation_fvu"] = 0.2
    _lines(path / "metrics.jsonl", steps)
    for end in (19, 39, 59):
        tracking(path / "tracking", end, rng.integers(0, 200, N))
    return run


def tracking(folder: Path, last_step: int, counts: np.ndarray) -> None:
    """One interval of 20 steps and 1,000 activations."""
    folder.mkdir(exist_ok=True)
    content = {"span": np.array([last_step - 19, last_step, 1000]), "fire_count": counts.astype(np.int32)}
    save_file(content, folder / f"steps-{last_step:08d}.safetensors")


def relations(path: Path, evil: str = "") -> None:
    """Neighbours, co-activation, groups and scores."""
    latents = np.repeat(np.arange(N), 2)
    others = (latents + np.tile([1, 2], N)) % N
    rank = np.tile(np.arange(2), N).astype(np.int16)
    base = {"latent": pa.array(latents, pa.int32()), "rank": rank}
    _table(path / "coactivation" / "cosines.parquet", base | {"neighbour": others, "cosine": np.full(2 * N, 0.625)})
    partner = {"partner": others, "count": np.full(2 * N, 17), "conditional": np.full(2 * N, 0.25)}
    _table(
        path / "coactivation" / "partners.parquet",
        base | partner | {"reverse": np.full(2 * N, 0.5), "jaccard": np.full(2 * N, 0.2), "pmi": np.full(2 * N, 1.5)},
    )
    ngram = {"text": f"rope{evil}", "place": "at", "words": 1, "z": 9.0, "share": 0.5, "corpus_share": 0.01}
    cluster = {"share": 0.5, "words": [f"sea{evil}", "wave"], "sentences": [1, 2]}
    _table(
        path / "groups" / "groups.parquet",
        {
            "latent": pa.array(range(N), pa.int32()),
            "ngrams": [[ngram]] * N,
            "clusters": [[cluster, cluster]] * N,
            "monosemanticity": np.full(N, 0.8),
            "monosemanticity_random": np.full(N, 0.4),
            "token": [f"rope{evil}"] * N,
            "token_only": [latent == TOKEN_ONLY for latent in range(N)],
        },
    )
    scored = [(latent, figure) for latent in range(N) for figure in ("auroc", "balanced_accuracy", "decile_01")]
    value = [latent / N for latent, _ in scored]
    told = [figure != "decile_01" for _, figure in scored]
    _table(
        path / "scores" / "scores.parquet",
        {
            "latent": pa.array([latent for latent, _ in scored], pa.int32()),
            "score": ["lexical"] * len(scored),
            "figure": [figure for _, figure in scored],
            "value": value,
            "low": pa.array([v - 0.1 if t else None for v, t in zip(value, told, strict=True)]),
            "high": pa.array([v + 0.1 if t else None for v, t in zip(value, told, strict=True)]),
            "shuffled": pa.array([0.5 if t else None for t in told]),
            "shuffled_p95": pa.array([0.7 if t else None for t in told]),
            "frequency": pa.array([None] * len(scored), pa.float64()),
            "chance": pa.array([0.5 if t else None for t in told]),
        },
    )

    of_untrained = {"lexical": {"balanced_accuracy": {"random_sae": 0.52}}}
    (path / "scores" / "scores.json").write_text(json.dumps({"summary": {}, "scores": of_untrained}))
    written = {"latent": 24, "output_meaning": ["rope"], "plain": ["The sea."], "steered": [f"A rope{evil}."]}
    (path / "scores" / "model.json").write_text(json.dumps({"latents": [written]}))
    judged = {"meanings": {"24": {"explanation": f"ropes{evil}", "certainty": 0.7}}}
    (path / "scores" / "judged.json").write_text(json.dumps(judged))


def seeds(path: Path, cosines: list[list[float]], of: str = "the SAE") -> None:
    """The comparison with SAEs of other seeds, and manifests that say which SAE it is of."""
    _table(
        path / "seeds" / "latents.parquet", {"latent": pa.array(range(len(cosines)), pa.int32()), "cosines": cosines}
    )
    made = {"stage": "sae", "recipe": {}, "inputs": {}, "fingerprint": "the SAE", "complete": True}
    (path / "sae").mkdir(exist_ok=True)
    (path / "sae" / "manifest.json").write_text(json.dumps(made))
    compared = made | {"stage": "seeds", "inputs": {"sae": of, "../other": "another"}, "fingerprint": "both"}
    (path / "seeds" / "manifest.json").write_text(json.dumps(compared))


def _examples(folder: Path, rng: np.random.Generator, evil: str) -> None:
    texts = [" ".join(rng.choice(WORDS, TOKENS)) + evil for _ in range(SENTENCES)]
    starts = [[sum(len(word) + 1 for word in text.split(" ")[:t]) for t in range(TOKENS)] for text in texts]
    ends = [
        [start + len(word) for start, word in zip(at, text.split(" "), strict=False)]
        for at, text in zip(starts, texts, strict=True)
    ]
    numbers = np.arange(SENTENCES) * 3
    _table(
        folder / "sentences.parquet",
        {
            "sentence": numbers,
            "title": [f"title {i}{evil}" for i in range(SENTENCES)],
            "label": [f"label{evil}"] * SENTENCES,
            "text": texts,
            "starts": starts,
            "ends": ends,
        },
        row_group_size=16,
    )
    rows: list[dict[str, Any]] = []
    for latent in range(N):
        for way in WAYS if latent != DEAD else ():
            for rank in range(TOP):
                place = int(rng.integers(TOKENS))
                positions = sorted({place, (place + 3) % TOKENS})
                values = [float(rng.random() + 0.1) for _ in positions]
                sentence = int(rng.choice(numbers))
                rows.append(
                    {"latent": latent, "aggregation": way, "rank": rank, "sentence": sentence, "value": max(values)}
                    | {"positions": positions, "values": values}
                )
    schema = pa.schema(
        {
            "latent": pa.int32(),
            "aggregation": pa.string(),
            "rank": pa.int16(),
            "sentence": pa.int64(),
            "value": pa.float32(),
            "positions": pa.list_(pa.int16()),
            "values": pa.list_(pa.float32()),
        }
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "examples.parquet", row_group_size=32)
    counts = np.array([0 if latent == DEAD else 10 * (latent + 1) for latent in range(N)])
    _table(
        folder / "latents.parquet",
        {
            "latent": pa.array(range(N), pa.int32()),
            "fire_count": counts,
            "density": np.where(np.arange(N) == DENSE, 0.2, counts / 10_000),
            "max": np.where(counts > 0, 1.2, 0).astype(np.float32),
            "mean": np.where(counts > 0, 0.6, 0).astype(np.float32),
            "sentence_count": counts // 2,
        },
    )


def _table(path: Path, columns: dict[str, Any], **options: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
