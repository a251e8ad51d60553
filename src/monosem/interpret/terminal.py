"""Cards and hits as rich renderables for the terminal. Knows only `cards`."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from monosem.interpret.cards import Card, Grouped, Shown, visible
from monosem.interpret.score.shown import Figure, Steered
from monosem.interpret.search import Hit

HEAT = (214, 92, 20)  # of the strongest token; weaker ones fade towards black
FIRST = ("max", "mean", "last", "quantile", "random")
TITLES = {"quantile": "sentences spread over its strength", "random": "random sentences"}


def show_card(card: Card, sentences: int = 8) -> RenderableType:
    """A latent's card with the first `sentences` examples of each aggregation."""
    head = Text()
    head.append(f"latent {card.latent}", style="bold")
    head.append(f" of {card.n:,}   ", style="dim")
    if card.explanation is None:
        head.append(f"no explanation: {card.reason}", style="dim")
    else:
        head.append(card.explanation, style="bold")
        head.append(f"   certainty {card.certainty:.2f}" if card.certainty is not None else "", style="dim")
        head.append(f" ({card.provider})", style="dim")
    parts: list[RenderableType] = [head, _statistics(card)]
    parts += [Text(f"! {warning}", style="yellow") for warning in card.warnings]
    if card.scores:
        parts.append(_scores(card.scores))
    if card.raised:
        parts.append(_tokens("raises", card.raised))
    if card.lowered:
        parts.append(_tokens("lowers", card.lowered))
    if card.steered is not None:
        parts.append(_steered(card.steered))
    if card.grouped is not None:
        parts.append(_grouped(card.grouped))
    for aggregation in sorted(card.examples, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST)):
        title = TITLES.get(aggregation, f"top sentences by {aggregation}")
        parts.append(Text(f"\n{title}", style="bold"))
        parts.append(_examples(card.examples[aggregation][:sentences], card.max))
    return Panel(Group(*parts), border_style="dim")


def show_hits(hits: Sequence[Hit]) -> RenderableType:
    """What a search found, best first."""
    if not hits:
        return Text("nothing found")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, justify in (("latent", "right"), ("certainty", "right"), ("sentences", "right"), ("explanation", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for hit in hits:
        certainty = "" if hit.certainty is None else f"{hit.certainty:.2f}"
        explanation = Text(hit.explanation or "-", style="bold" if hit.in_explanation else "")
        table.add_row(str(hit.latent), certainty, str(hit.sentences), explanation)
    return table


def heat_map(example: Shown, highest: float) -> Text:
    """A sentence whose firing tokens have a background as warm as their share of the latent's highest value."""
    text = Text(example.text)
    for token in example.tokens:
        strength = min(1.0, token.value / highest) if highest > 0 else 0.0
        red, green, blue = (round(channel * (0.15 + 0.85 * strength)) for channel in HEAT)
        text.stylize(f"white on rgb({red},{green},{blue})", token.start, token.end)
    return text


def _statistics(card: Card) -> Text:
    figures = f"fires on {100 * card.density:.3g} % of tokens, in {card.sentence_count:,} sentences"
    figures += f"; max {card.max:.3g}, mean {card.mean:.3g}"
    if card.output_score is not None:
        figures += (
            f"; output score {card.output_score:.3f}" if card.output_score >= 0.001 else "; output score below 0.001"
        )
    return Text(figures, style="dim")


def _scores(figures: Sequence[Figure]) -> Table:
    """The explanation's scores, each beside other explanations, their 95th percentile, counting, an untrained SAE."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("score", no_wrap=True)
    for name in ("value", "shuffled", "p95", "counting", "random", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for figure in figures:
        baselines = (figure.shuffled, figure.shuffled_p95, figure.frequency, figure.random_sae)
        told = ("" if value is None else f"{value:.2f}" for value in baselines)
        verdict = "< chance" if figure.below_chance else "> p95" if figure.beats else ""
        table.add_row(figure.label, f"{figure.value:.2f}", *told, verdict)
    return table


def _tokens(what: str, tokens: Sequence[str]) -> Text:
    return Text(f"{what}  ", style="dim").append("  ".join(visible(token) for token in tokens[:10]), style="default")


def _steered(steered: Steered) -> Text:
    """What it does to texts, under what it reacts to."""
    told = steered.meaning or ", ".join(steered.words) or "no words"
    text = Text("brings in  ", style="dim").append(told, style="bold")
    text.append(f"   certainty {steered.certainty:.2f}" if steered.certainty is not None else "", style="dim")
    for name, written in (("plain", steered.plain), ("steered", steered.text)):
        text.append(f"\n{name:>9}  ", style="dim").append(" ".join(written.split()), style="default")
    return text


def _grouped(grouped: Grouped) -> RenderableType:
    """Over-represented terms, and the groups that the sentences fall into."""
    groups = Table(box=None, show_header=False, pad_edge=False)
    groups.add_column(justify="right", style="dim", no_wrap=True)
    groups.add_column()
    for share, words in zip(grouped.shares, grouped.groups, strict=True):
        groups.add_row(f"{100 * share:3.0f} % of its sentences", Text(", ".join(words)))
    parts: list[RenderableType] = [_tokens("n-grams", grouped.ngrams or ["none"])]
    parts += [groups] if grouped.groups else []
    if grouped.monosemanticity is not None:
        chance = f" (random sentences: {grouped.monosemanticity_random:.3f})"
        parts.append(Text(f"monosemanticity {grouped.monosemanticity:.3f}{chance}", style="dim"))
    return Group(*parts)


def _examples(examples: Sequence[Shown], highest: float) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right", style="dim")
    table.add_column()
    for example in examples:
        table.add_row(f"{example.value:.3g}", heat_map(example, highest))
    return table
