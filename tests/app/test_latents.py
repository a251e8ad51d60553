"""The table of latents: aligned, on one line each, whatever the width."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from monosem.app.latents import latents_table
from monosem.completion import ActiveLatent, WrittenToken

TOKENS = [
    WrittenToken(
        1, " Paris", [ActiveLatent(861, 6.3512, 0.668, '"Paris", "London",\n "Vienna"; ' + "about: cities " * 9, 0.34)]
    ),
    WrittenToken(
        2, "\n", [ActiveLatent(12, 0.5, None, None, None), ActiveLatent(99_999, 123.4, 1.2, "after [red]", 1.0)]
    ),
    WrittenToken(3, " internationalisation", []),
    WrittenToken(4, "日本", [ActiveLatent(3, 1.0, 0.1, "日本語", 0.5)]),
]


def lines(width):
    printed = io.StringIO()
    Console(file=printed, width=width, highlight=False).print(latents_table(TOKENS))
    return printed.getvalue().splitlines()


def test_the_table_at_80_columns():
    assert [line.rstrip() for line in lines(80)] == [
        "         token  latent  value  of max  explanation                         cert.",
        '        ␣Paris     861   6.35    67 %  "Paris", "London", "Vienna"; abou…   0.34',
        "             ↵      12  0.500          (no explanation)",
        "                 99999    123   120 %  after [red]                          1.00",
        "␣internationa…                         none: an attention sink",
        "          日本       3   1.00    10 %  日本語                               0.50",
        "values, and shares of the latent's maximum, are those before any edit",
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_every_latent_has_one_line_that_fits(width):
    shown = lines(width)
    assert len(shown) == 1 + 5 + 1 + (width < 70)
    assert all(cell_len(line) <= width for line in shown)
