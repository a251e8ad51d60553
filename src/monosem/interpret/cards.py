"""Views of latents over the files of a finished run: their cards, for the terminal, the report and the page.

Pure functions of a run folder; nothing is computed that a stage has not written, and nothing is kept between calls.
Knows no model, no SAE and no way of showing things.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from monosem.errors import RunError, SaeError
from monosem.interpret import stability, tables
from monosem.interpret.score import shown as grades

EXPLANATIONS = "explanations.jsonl"
DENSE = 0.1  # share of tokens from which a latent counts as dense
WEAK = 0.1  # certainty below which a warning is shown


class Token(NamedTuple):
    """A token where the latent fires."""

    start: int
    """Characters of the sentence; white space before the token is left out."""
    end: int
    value: float


class Shown(NamedTuple):
    """An example sentence with what fires in it."""

    sentence: int
    value: float
    """The aggregated value that it is ranked by."""
    text: str
    title: str
    label: str
    tokens: list[Token]


class Grouped(NamedTuple):
    """What the stage `groups` found in a latent's sentences."""

    ngrams: list[str]
    """Over-represented terms, the most telling first."""
    groups: list[list[str]]
    """Telling words of each group of its sentences, largest first."""
    shares: list[float]
    """Share of its sentences that each group holds."""
    monosemanticity: float | None
    monosemanticity_random: float | None
    token: str | None
    """The token that it fires on most."""
    token_share: float | None
    """Share of its firings that are on this token."""
    token_only: bool
    """It fires on this token whatever the context."""


class Card(NamedTuple):
    """All that a run's files say of one latent."""

    latent: int
    n: int
    """Latents of the run."""
    explanation: str | None
    certainty: float | None
    provider: str
    reason: str | None
    """Why there is no explanation."""
    fire_count: int
    density: float
    """Share of the stored tokens on which it fires."""
    max: float
    mean: float
    """Of its values where it fires."""
    sentence_count: int
    examples: dict[str, list[Shown]]
    """By aggregation, best first."""
    output_score: float | None
    raised: list[str]
    """Tokens that its direction makes likelier, strongest first."""
    lowered: list[str]
    warnings: list[str]
    grouped: Grouped | None = None
    """None where the stage `groups` has not been made."""
    scores: Sequence[grades.Figure] = ()
    """How good the explanation is, where it has been graded."""
    steered: grades.Steered | None = None
    """What it does to texts; None where no text was written under it."""


def card(run_folder: Path, latent: int) -> Card:
    """The card of one latent.

    Raises:
        SaeError: there is no such latent.
        RunError: the run has no examples.
    """
    return cards(run_folder, [latent])[0]


def cards(run_folder: Path, latents: Sequence[int], most: int | None = None) -> list[Card]:
    """The cards of several latents, with at most `most` sentences by each aggregation. Raises as `card`."""
    statistics = read_statistics(run_folder)
    n = statistics.num_rows
    for latent in latents:
        if not 0 <= latent < n:
            raise SaeError(f"latent {latent} is out of range: {run_folder} has latents 0 to {n - 1}")
    explanations = {row["latent"]: row for row in read_explanations(run_folder, set(latents))}
    examples = _examples(run_folder, latents, most)
    output = {row["latent"]: row for row in _of_stage(run_folder / "evaluation" / tables.LATENTS, latents)}
    groups = {row["latent"]: row for row in _of_stage(run_folder / "groups" / tables.GROUPS, latents)}
    scores, steered = grades.figures(run_folder, latents), grades.steered(run_folder, latents)
    seeds = stability.of(run_folder, latents)
    rows = statistics.take(pa.array(latents, type=pa.int64())).to_pylist()
    made = [
        _card(n, row, explanations.get(row["latent"]), examples.get(row["latent"], {}), output.get(row["latent"], {}))
        for row in rows
    ]
    made = [_with_groups(card, groups[card.latent]) if card.latent in groups else card for card in made]
    made = [_with_seeds(card, seeds[card.latent]) if card.latent in seeds else card for card in made]
    made = [_with_scores(card, scores.get(card.latent, [])) for card in made]
    return [card._replace(steered=steered.get(card.latent)) for card in made]


def read_statistics(run_folder: Path) -> pa.Table:
    """`examples/latents.parquet`, one row a latent, in order.

    Raises:
        RunError: the run has no examples.
    """
    path = run_folder / "examples" / tables.LATENTS
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; make it with: monosem examples {run_folder}") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise RunError(f"{path}: damaged ({error}); make it again with --redo examples") from None


def read_explanations(run_folder: Path, latents: set[int] | None = None) -> Iterator[dict[str, Any]]:
    """The objects of `explanations.jsonl`, of all latents or of these; none where the stage has not been made."""
    path = run_folder / "explanations" / EXPLANATIONS
    with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8") as file:
        for line in file:
            number = re.match(r'\{"latent": (\d+),', line)  # parse no more than the lines that are wanted
            if latents is None or (number and int(number[1]) in latents):
                yield json.loads(line)


def pieces(example: Shown) -> list[tuple[str, float | None]]:
    """A sentence as pieces in order, each with the latent's value; None where it does not fire.

    Pieces, not character offsets: a browser counts characters in another way.
    """
    found: list[tuple[str, float | None]] = []
    at = 0
    for token in example.tokens:
        start = max(token.start, at)  # tokens may share a character
        if token.end <= start:
            continue
        if start > at:
            found.append((example.text[at:start], None))
        found.append((example.text[start : token.end], token.value))
        at = token.end
    return [*found, (example.text[at:], None)] if at < len(example.text) else found


def visible(token: str) -> str:
    """A token by itself: its white space as signs, long runs of it counted, what cannot be printed by its number."""
    shown = token.replace("\n", "↵").replace("\r", "↵").replace("\t", "⇥")
    leading = len(shown) - len(shown.lstrip(" ")) if token.strip() else len(shown)
    shown = shown[:leading].replace(" ", "␣") + shown[leading:]
    shown = re.sub(r"([␣↵⇥])\1{3,}", lambda run: f"{run[1]}\N{MULTIPLICATION SIGN}{len(run[0])}", shown)
    return "".join(one if one.isprintable() else f"<U+{ord(one):04X}>" for one in shown)


def _examples(run_folder: Path, latents: Sequence[int], most: int | None) -> dict[int, dict[str, list[Shown]]]:
    """By latent and aggregation, best first."""
    folder = run_folder / "examples"
    rows = tables.read_sorted(folder / tables.EXAMPLES, "latent", latents).to_pylist()
    rows = [row for row in rows if most is None or row["rank"] < most]
    wanted = sorted({row["sentence"] for row in rows})
    texts = {
        row["sentence"]: row for row in tables.read_sorted(folder / tables.SENTENCES, "sentence", wanted).to_pylist()
    }
    found: dict[int, dict[str, list[Shown]]] = {}
    for row in rows:
        by_aggregation = found.setdefault(row["latent"], {})
        by_aggregation.setdefault(row["aggregation"], []).append(shown(row, texts[row["sentence"]]))
    return found


def shown(row: dict[str, Any], sentence: dict[str, Any]) -> Shown:
    """A row of `examples.parquet` with its row of `sentences.parquet`."""
    text = sentence["text"]
    tokens = [
        Token(
            _without_space(text, sentence["starts"][position], sentence["ends"][position]),
            sentence["ends"][position],
            value,
        )
        for position, value in zip(row["positions"], row["values"], strict=True)
    ]
    title, label = sentence["title"] or "", sentence["label"] or ""
    return Shown(row["sentence"], row["value"], text, title, label, tokens)


def _without_space(text: str, start: int, end: int) -> int:
    """The start of a token behind its leading white space, unless it is nothing else."""
    return end - len(text[start:end].lstrip()) if text[start:end].strip() else start


def _of_stage(path: Path, latents: Sequence[int]) -> list[dict[str, Any]]:
    """Rows of a later stage's file, where it has been made."""
    return tables.read_sorted(path, "latent", latents).to_pylist() if path.exists() else []


def _with_groups(card: Card, row: dict[str, Any]) -> Card:
    grouped = Grouped(
        [ngram["text"] for ngram in row["ngrams"]],
        [cluster["words"] for cluster in row["clusters"]],
        [cluster["share"] for cluster in row["clusters"]],
        *(row[name] for name in Grouped._fields[3:]),
    )
    only = [f"token-only: it fires on {visible(row['token'])!r} whatever the context"] if row["token_only"] else []
    return card._replace(grouped=grouped, warnings=card.warnings + only)


def _with_seeds(card: Card, found: stability.Stability) -> Card:
    return card._replace(warnings=[*card.warnings, found.warning]) if card.fire_count and found.warning else card


def _with_scores(card: Card, scores: Sequence[grades.Figure]) -> Card:
    return card._replace(scores=scores, warnings=card.warnings + grades.warnings(scores))


def _card(
    n: int,
    row: dict[str, Any],
    explanation: dict[str, Any] | None,
    examples: dict[str, list[Shown]],
    output: dict[str, Any],
) -> Card:
    said = explanation or {"reason": "not explained yet; do it with: monosem explain RECIPE"}
    certainty = said.get("certainty")
    return Card(
        n=n,
        explanation=said.get("explanation"),
        certainty=certainty,
        provider=said.get("provider", ""),
        reason=said.get("reason"),
        examples=examples,
        output_score=output.get("output_score"),
        raised=output.get("raised") or [],
        lowered=output.get("lowered") or [],
        warnings=_warnings(row, certainty),
        **{name: row[name] for name in ("latent", "fire_count", "density", "max", "mean", "sentence_count")},
    )


def _warnings(row: dict[str, Any], certainty: float | None) -> list[str]:
    found = []
    if row["fire_count"] == 0:
        found.append("dead: it never fires on the stored activations")
    if row["density"] > DENSE:
        found.append(f"dense: it fires on {100 * row['density']:.0f} % of all tokens")
    if certainty is not None and certainty < WEAK:
        found.append("weak: its explanation hardly tells held-out sentences from others")
    return found
