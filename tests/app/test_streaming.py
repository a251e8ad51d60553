"""Events on a terminal and in a pipe: in order, as they come, and nothing but text where there is no terminal."""

import io
import itertools
import re

import pytest
from pseudo_terminal import terminal
from random_model import random_llama
from rich.console import Console

from monosem.app.streaming import PairView, TextView, in_order
from monosem.completion import Began, Completer, Completion, Ended, Prompt, Row, WrittenToken, Wrote
from monosem.lm.generate import Sampling
from monosem.steering import Edit

SAMPLING = Sampling(max_new_tokens=20)


def events_of(row, words, steered=True, perplexity=None):
    tokens = [WrittenToken(1, word, []) for word in words]
    completion = Completion("Say:", "".join(words), tokens, 0, steered, "stop", perplexity)
    return [
        Began(row, Row(Prompt("Say:", [1]), 0, steered)),
        *(Wrote(row, word, word) for word in words),
        Ended(row, "", completion),
    ]


def mixed(*rows):
    """The events of several rows side by side, as a batch tells them."""
    longest = max(map(len, rows))
    return [row[place] for place in range(longest) for row in rows if place < len(row)]


def piped(width=80):
    return Console(file=io.StringIO(), highlight=False, width=width)


def shown(view, console, events):
    assert list(view.show(events)) == list(in_order(events, 2 if isinstance(view, PairView) else 1))
    return console.file.getvalue()


def test_rows_are_told_one_after_the_other():
    rows = [events_of(0, [" a", " b", " c"]), events_of(1, [" d"]), events_of(2, [" e", " f"])]
    assert list(in_order(mixed(*rows))) == [*rows[0], *rows[1], *rows[2]]
    pairs = mixed(*rows, events_of(3, [" g"]))
    assert [event.row // 2 for event in in_order(pairs, together=2)] == [0] * 8 + [1] * 7
    assert list(in_order([])) == []


def test_the_first_row_never_waits():
    rows = mixed(events_of(0, [" a", " b"]), events_of(1, [" c", " d"]))
    source = iter(rows)
    ordered = in_order(source)
    assert [next(ordered) for _ in range(3)] == [rows[0], rows[2], rows[4]]
    assert next(source) == rows[5], "nothing was read ahead"


def test_plain_text_in_a_pipe():
    console = piped()
    events = mixed(events_of(0, [" one", ",\n", "two"]), events_of(1, [" \x1b[31mred", "\x07", "." + 99 * "x"]))
    assert shown(TextView(console), console, events) == f"Say: one,\ntwo\n\nSay: ␛[31mred␇.{99 * 'x'}\n"


def test_a_comparison_in_a_pipe():
    console = piped()
    events = mixed(events_of(0, [" no"], steered=False, perplexity=2.5), events_of(1, [" yes"], perplexity=12.345))
    assert shown(TextView(console, labels=True), console, events) == (
        "plain:\nSay: no\n(perplexity 2.5)\n\nsteered:\nSay: yes\n(perplexity 12.35)\n"
    )


def test_a_chat_has_no_prompt():
    console = piped()
    assert shown(TextView(console, prompts=False), console, events_of(0, ["Yes", "."])) == "Yes.\n"


@pytest.mark.parametrize("columns", [80, 120])
def test_text_appears_before_the_end(run, columns):
    with terminal(columns) as (console, screen):
        view = TextView(console)
        appeared = []
        for event in view.show(Completer(run, random_llama()).stream(["Hello", "A b"], (), SAMPLING)):
            screen.read()
            appeared.append(plain(screen.seen))
            if isinstance(event, Wrote):
                assert appeared[-1].replace("\n", "").endswith(event.text[-1:])
        assert appeared[0] == "Hello"
        assert len(set(appeared)) > 30
        assert all(after.startswith(before) for before, after in itertools.pairwise(appeared))


def test_the_columns_grow_together(run):
    with terminal(80) as (console, screen):
        view = PairView(console, latents=True)
        events = Completer(run, random_llama()).stream(
            ["Hello"], [Edit(3, 20.0)], SAMPLING, compare=True, perplexity=True, show_latents=1
        )
        told = {False: "", True: ""}
        steered = {}
        for event in view.show(events):
            if isinstance(event, Began):
                steered[event.row] = event.text.steered
            if isinstance(event, Wrote):
                told[steered[event.row]] += event.text
        screen.read(1.0)
    final = plain(screen.seen).split("plain, perplexity")[-1]
    head, first = final.split("\n")[:2]
    assert re.search(r"steered, perplexity [\d.]+", head)
    assert first.split() == [f"Hello{told[False]}", f"Hello{told[True]}"] or "Hello" in first
    assert told[False] != told[True]
    assert "meaning" in screen.seen
    assert all(len(line) <= 80 for line in final.split("\n"))


def plain(text):
    """Without the terminal's codes."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")
