"""The metrics table of the report: which figures, in which order, with which words and how many digits.

Takes the object of `evaluation/evaluation.json` and shows what is there: a figure it does not know is shown under its
own name, one that is missing is left out. Knows nothing of HTML.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """How a figure is named, explained and written."""

    label: str
    definition: str
    form: str = ".3f"


METRICS: dict[str, dict[str, Metric]] = {
    "Reconstruction": {
        "fvu": Metric(
            "FVU",
            "Fraction of variance unexplained: summed squared error of the reconstruction over the summed squared "
            "distance of the activations from their mean, on held-out sentences. 0 is perfect, 1 predicts the mean.",
        ),
        "l0": Metric("L0", "Mean number of active latents for each activation.", ".1f"),
        "cosine": Metric("Cosine", "Mean cosine between an activation and its reconstruction."),
        "norm_ratio": Metric(
            "Norm ratio", "Mean norm of the reconstruction over that of the activation; below 1 it shrinks."
        ),
        "relative_bias": Metric(
            "Relative bias", "Summed |x_hat|^2 over summed <x, x_hat>: below 1 the reconstruction is too short."
        ),
        "reference_loss": Metric(
            "Reference loss",
            "Mean squared error of activations brought to mean 0 and standard deviation 1: the reference system's "
            "training loss, without its auxiliary part. Not FVU.",
        ),
        "components": Metric(
            "Components", "Principal components that PCA keeps: as many as the SAE has active latents.", ",d"
        ),
        "components_at_sae_fvu": Metric(
            "Components at the SAE's FVU",
            "Principal components that PCA needs to explain as much variance as the SAE.",
            ",d",
        ),
        "n_rows": Metric("Activations", "Held-out activations that the reconstruction was measured on.", ",d"),
    },
    "Latents": {
        "dead_fraction": Metric("Dead latents", "Share of latents that never fired in the window below.", ".2%"),
        "dead_window_tokens": Metric(
            "Dead window", "Activations that a dead latent did not fire on. The window decides.", ",d"
        ),
        "dense_fraction": Metric(
            "Dense latents", "Share of latents that fire on more than a tenth of all activations.", ".2%"
        ),
    },
    "Language model": {
        "ce_clean": Metric("CE, clean", "Next-token cross-entropy of the untouched language model, nats a token."),
        "ce_sae": Metric("CE, reconstructed", "Cross-entropy with the activations replaced by their reconstructions."),
        "ce_zero": Metric("CE, zero ablation", "Cross-entropy with the activations replaced by zero."),
        "ce_mean": Metric("CE, mean ablation", "Cross-entropy with the activations replaced by their mean."),
        "ce_recovered_zero": Metric(
            "CE recovered, zero",
            "(CE zero - CE reconstructed) / (CE zero - CE clean): 1 is the clean model, 0 is zero ablation.",
        ),
        "ce_recovered_mean": Metric(
            "CE recovered, mean",
            "(CE mean - CE reconstructed) / (CE mean - CE clean): 1 is the clean model, 0 is mean ablation.",
        ),
        "kl_sae": Metric("KL, reconstructed", "KL divergence from the clean model's predictions, nats a token."),
        "kl_zero": Metric("KL, zero ablation", "KL divergence from the clean model's predictions under zero ablation."),
        "kl_mean": Metric("KL, mean ablation", "KL divergence from the clean model's predictions under mean ablation."),
        "kl_recovered_zero": Metric(
            "KL recovered, zero",
            "1 - KL reconstructed / KL under zero ablation: 1 is the clean model, 0 is zero ablation.",
        ),
        "kl_recovered_mean": Metric(
            "KL recovered, mean",
            "1 - KL reconstructed / KL under mean ablation: 1 is the clean model, 0 is mean ablation.",
        ),
        "n_sentences": Metric("Sentences", "Held-out sentences that the language model read.", ",d"),
        "n_tokens": Metric("Tokens", "Tokens of these sentences.", ",d"),
        "n_predictions": Metric("Predictions", "Tokens whose prediction was measured.", ",d"),
        "n_edited": Metric(
            "Edited", "Activations that were replaced; attention sinks, which capture drops, stay.", ",d"
        ),
    },
}
"""By the group they stand in."""
COLUMNS = {"random_sae": "random SAE", "pca": "PCA", "affine": "affine map"}
SAME_ROW = {"ce": "ce_sae", "kl": "kl_sae"}  # how a baseline names its own losses


class Row(NamedTuple):
    """A line of a table."""

    key: str
    label: str
    definition: str
    cells: list[str]
    """One for each column, empty where nothing was measured."""


class MetricTable(NamedTuple):
    """A group of figures."""

    title: str
    columns: list[str]
    rows: list[Row]


def metric_tables(evaluation: Mapping[str, Any]) -> list[MetricTable]:
    """The SAE's figures, beside them its baselines' and those with all tokens included, by group."""
    columns: dict[str, Mapping[str, Any]] = {"SAE": evaluation}
    baselines: Mapping[str, Mapping[str, Any]] = evaluation.get("baselines") or {}
    for name, figures in baselines.items():
        columns[COLUMNS.get(name, name)] = {SAME_ROW.get(key, key): value for key, value in figures.items()}
    if evaluation.get("all_tokens"):
        columns["all tokens"] = evaluation["all_tokens"]
    known = {key for group in METRICS.values() for key in group}
    others = {
        key: Metric(key.replace("_", " "), "", ".4g")
        for figures in columns.values()
        for key, value in figures.items()
        if key not in known and figure(value, ".4g")
    }
    tables = [_table(title, metrics, columns) for title, metrics in (*METRICS.items(), ("Others", others))]
    return [table for table in tables if table.rows]


def _table(title: str, metrics: Mapping[str, Metric], columns: Mapping[str, Mapping[str, Any]]) -> MetricTable:
    """The rows and columns of a group in which something was measured."""
    cells = {key: [figure(figures.get(key), m.form) for figures in columns.values()] for key, m in metrics.items()}
    used = [i for i in range(len(columns)) if any(row[i] for row in cells.values())]
    rows = [
        Row(key, metrics[key].label, metrics[key].definition, [row[i] for i in used])
        for key, row in cells.items()
        if any(row)
    ]
    return MetricTable(title, [list(columns)[i] for i in used], rows)


def figure(value: Any, form: str) -> str:
    """A figure as text; nothing for what was not measured or is not a number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return ""
    if form.endswith("g") and abs(value) >= 100:  # no exponents
        form = ",d"
    return format(round(value), form) if form.endswith("d") else format(value, form).replace("%", " %")
