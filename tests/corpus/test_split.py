"""Punkt: all text and its order are kept, in one process or several, in the language of the source."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monosem.corpus import split as splitting
from monosem.corpus.split import Splitter, Text, split

PIECES = st.sampled_from(
    ["Dr. Smith", "went home", ".", "!", "? ", "e.g.", " ", "\n\n", "\u00a0", "(He", ")", "3.5", "«Oui»", "…"]
)


@given(st.lists(PIECES, max_size=40).map("".join))
def test_nothing_but_whitespace_is_lost(text: str) -> None:
    sentences = split([Text(text, "english")])[0]
    rest = text
    for sentence in sentences:
        between, found, rest = rest.partition(sentence)
        assert found == sentence
        assert not between.strip()
        assert sentence.strip()
    assert not rest.strip()


def test_each_text_is_split_in_its_own_language() -> None:
    text = "M. Dupont est venu. Il est parti."
    assert split([Text(text, "french")]) == [["M. Dupont est venu.", "Il est parti."]]
    assert split([Text("Dr. Smith went home. He was tired.", "english"), Text(" \n", "english")]) == [
        ["Dr. Smith went home.", "He was tired."],
        [],
    ]


def test_processes_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "PIECE_CHARACTERS", 300)
    texts = [Text(f"Text {n} begins. " + "It goes on! " * (n % 7), "english") for n in range(100)]
    counted: list[int] = []
    with Splitter(2) as splitter:
        several = splitter.split(texts, counted.append)
        assert several == splitter.split(texts, counted.append, spread=False) == split(texts)
    assert sum(counted) == 200
    assert len(list(chain.from_iterable(several))) == 100 + sum(n % 7 for n in range(100))


def test_workers_end_when_their_parent_is_killed() -> None:
    script = """
    import os, signal
    from monosem.corpus.split import Splitter, Text
    if __name__ == "__main__":
        with Splitter(2) as splitter:
            splitter.split([Text("One. Two.", "english")], lambda n: None)
            print(*splitter._pool._processes, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    workers = [int(process) for process in done.stdout.split()]
    assert workers
    deadline = time.monotonic() + 30
    while any(_alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(worker) for worker in workers)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
