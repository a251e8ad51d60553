"""The steps of `monosem explain` for a provider that is asked: what each does, and what it tells the user.

Everything printed comes from the ledger and the answers; to be told twice is the same as once. Shows no key.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from rich import box
from rich.console import Console
from rich.table import Table

from monosem.errors import RecipeError
from monosem.interpret import explain
from monosem.interpret.asking import Asking
from monosem.interpret.providers.book import Chunk
from monosem.interpret.providers.post import Consent
from monosem.run import Run

__all__ = ["STEPS", "Consent"]
STATES = {
    "planned": "planned",
    "sending": "sent, or not: not known yet",
    "sent": "under way",
    "ended": "answered, not fetched",
    "fetched": "fetched",
    "lost": "gone at the provider",
}


class Wanted(Protocol):
    """What the user asked for besides."""

    @property
    def json(self) -> bool: ...
    @property
    def resend_lost(self) -> bool: ...
    @property
    def final(self) -> bool: ...


def plan(run: Run, consent: Consent, wanted: Wanted) -> None:
    """Write the requests, and say what they cost."""
    with run.lock(), _asking(run, consent) as asking:
        asking.plan()
        _show(asking, wanted, "nothing is sent yet; send with: monosem explain send RUN --yes")


def send(run: Run, consent: Consent, wanted: Wanted) -> None:
    """Send what waits for it."""
    with run.lock(), _asking(run, consent) as asking:
        if wanted.resend_lost:
            asking.post.resend_lost()
        asking.plan()
        left = asking.post.send()
        budget = f"{left:,} chunks wait for a larger budget; " if left else ""
        _show(asking, wanted, f"{budget}fetch the answers with: monosem explain fetch RUN")


def status(run: Run, consent: Consent, wanted: Wanted) -> None:
    """Ask the provider how far the batches are."""
    with run.lock(), _asking(run, consent) as asking:
        asking.post.look()
        _show(asking, wanted, "")


def fetch(run: Run, consent: Consent, wanted: Wanted) -> None:
    """Bring the answers that are there."""
    with run.lock(), _asking(run, consent) as asking:
        left = asking.post.fetch()
        then = f"{left:,} chunks are still under way" if left else "read the answers with: monosem explain parse RUN"
        _show(asking, wanted, then)


def parse(run: Run, consent: Consent, wanted: Wanted) -> None:
    """Make `explanations.jsonl`; what has to be asked again is planned, unless this is final."""
    with run.lock(), _asking(run, consent) as asking:
        if not wanted.final:
            asking.plan()
        counts = asking.write(final=wanted.final).manifest.counts
    if wanted.json:
        print(json.dumps(counts))
    else:
        print(", ".join(f"{name.replace('_', ' ')} {_figure(value)}" for name, value in counts.items()))


def run_all(run: Run, consent: Consent, wanted: Wanted) -> None:  # noqa: ARG001 - all steps take the same
    """Plan, send, wait and fetch; the stage then reads what is there."""
    if run.recipe.explain.provider != "lexical":
        with run.lock():
            stage = explain.open_stage(run)
            if not stage.complete:
                explain.check_aggregation(run.recipe)
                asking = Asking(run, stage, consent)
                with asking.post:
                    asking.finish()


STEPS: dict[str, Callable[[Run, Consent, Wanted], None]] = {
    "plan": plan,
    "send": send,
    "status": status,
    "fetch": fetch,
    "parse": parse,
    "run": run_all,
}


@contextlib.contextmanager
def _asking(run: Run, consent: Consent) -> Iterator[Asking]:
    """The run's requests, their connections closed in the end.

    Raises:
        RecipeError: the provider is asked nothing, or everything is explained already.
    """
    if run.recipe.explain.provider == "lexical":
        raise RecipeError("explain.provider = 'lexical' asks nobody; make its explanations with: monosem explain RUN")
    stage = explain.open_stage(run)
    if stage.complete:
        raise RecipeError(f"{stage.path}: complete; make it again with --redo explain")
    explain.check_aggregation(run.recipe)
    asking = Asking(run, stage, consent)
    with asking.post:
        yield asking


def _show(asking: Asking, wanted: Wanted, then: str) -> None:
    found = _figures(asking)
    if wanted.json:
        print(json.dumps(found))
        return
    table = Table(box=box.SIMPLE_HEAD, title=f"{found['provider']} {found['model']}")
    for name in ("chunk", "requests", "MB", "state", "batch"):
        table.add_column(name, justify="left" if name in ("chunk", "state", "batch") else "right")
    for chunk in found["chunks"]:
        size = f"{chunk['bytes'] / 1e6:.2f}"
        table.add_row(chunk["chunk"], f"{chunk['requests']:,}", size, STATES[chunk["state"]], chunk["batch"])
    Console(highlight=False).print(table)
    print(_in_words(found))
    if then:
        print(then)


def _figures(asking: Asking) -> dict[str, Any]:
    """All that the ledger and the prices say."""
    post = asking.post
    ahead = post.sum(post.of("planned", "sending", "sent", "ended"))
    behind = post.sum(post.of("fetched", "lost"))
    return {
        "provider": post.name,
        "model": post.model,
        "prices_of": post.price.as_of if post.price else None,
        "chunks": [_chunk(chunk) for chunk in post.book.chunks.values()],
        "open": {
            "requests": ahead.requests,
            "input_tokens_about": ahead.tokens.input,
            "output_tokens_at_most": ahead.tokens.output,
            "usd_about": asking.usual_usd(ahead.requests, ahead.tokens),
            "usd_at_most": ahead.usd,
        },
        "fetched": {
            "requests": behind.requests,
            "tokens": vars(behind.tokens),
            "usd": behind.usd,
            "answers_cut_off": behind.unseen,
        },
    }


def _chunk(chunk: Chunk) -> dict[str, Any]:
    return {
        "chunk": chunk.name,
        "requests": chunk.count,
        "bytes": chunk.bytes,
        "state": chunk.state,
        "batch": chunk.batch,
    }


def _in_words(found: dict[str, Any]) -> str:
    lines = []
    if (ahead := found["open"])["requests"]:
        cost = "; their price is not known"
        if ahead["usd_at_most"] is not None:
            cost = f": about ${ahead['usd_about']:,.2f}, at most ${ahead['usd_at_most']:,.2f}"
            cost += f" (prices of {found['prices_of']})" if found["prices_of"] else ""
        read, written = ahead["input_tokens_about"] / 1e6, ahead["output_tokens_at_most"] / 1e6
        tokens = f"about {read:,.2f} M tokens in and at most {written:,.2f} M out"
        lines.append(f"{ahead['requests']:,} requests to be answered, {tokens}{cost}")
    if (behind := found["fetched"])["requests"]:
        tokens = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in behind["tokens"].items() if count)
        cost = "at a price that is not known" if behind["usd"] is None else f"${behind['usd']:,.4f}"
        lines.append(f"{behind['requests']:,} requests answered: {tokens or 'no'} tokens, {cost}")
    if behind["answers_cut_off"]:
        lines.append(f"{behind['answers_cut_off']:,} answers were cut off or lost; they may have been paid for besides")
    return "\n".join(lines) or "nothing to ask"


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
