"""Ten thousand kinds of text that a tokenizer can stumble over, the same ones every time."""

import random
from collections.abc import Callable

_SCRIPTS = [
    (0x61, 0x7A), (0x41, 0x5A), (0xC0, 0x17F), (0x370, 0x3FF), (0x400, 0x4FF), (0x531, 0x587), (0x590, 0x5FF),
    (0x600, 0x6FF), (0x700, 0x74F), (0x780, 0x7BF), (0x900, 0x97F), (0x980, 0x9FF), (0xB80, 0xBFF), (0xE00, 0xE7F),
    (0xE80, 0xEFF), (0xF00, 0xFFF), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1200, 0x137F), (0x13A0, 0x13FF),
    (0x1780, 0x17FF), (0x1800, 0x18AF), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x10330, 0x1034F),
    (0x12000, 0x120FF), (0x1D400, 0x1D7FF), (0x20000, 0x200FF),
]  # fmt: skip
_DIGITS = ["0123456789", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３", "½¾²³", "ⅣⅫ", "〇一二三"]  # noqa: RUF001
_SPACES = [" ", "  ", "\t", "\n", "\r\n", "\r", "\u00a0", "\u2003", "\u3000", "\u0085", "\u2028", "\u200b", "\v", "\f"]
_EMOJI = ["😀", "❤️", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷", "🇯🇵", "1️⃣", "🧑🏿‍🚀", "☕", "🫠", "\u200d", "\ufe0f"]
_CODE = [
    "def f(x):\n    return x ** 2\n", "for(int i=0;i<n;++i){a[i]+=b[i];}", '<div class="x">&nbsp;</div>', "!=", "===",
    "https://example.org/a?b=1&c=%20#d", "SELECT * FROM t;", "\\frac{a}{b}", "0x1F", '"\\n"', "//", "/* */",
    "if (a && !b) {\r\n\treturn;\r\n}\r\n", "$HOME/.bashrc", "#include <stdio.h>", "[[x]]", "({})", "->", "::",
]  # fmt: skip
_WORDS = [
    "I'll", "we'RE", "don't", "IT'S", "'s", "\u2019s", "naïve", "co-operate", "e.g.", "U.S.A.", "the", "Straße",
    "\u017f", "'\u017f", "\u212a",
]  # fmt: skip
_SPECIAL = [
    "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>system<|end_header_id|>\n\n", "<|end_of_text|>",
    "<|reserved_special_token_7|>", "<|python_tag|>", "<|im_end|>", "<|", "|>", "<|eot_id", "<s>", "</s>",
]  # fmt: skip


def many_texts(count: int = 10_000) -> list[str]:
    """`count` different texts: the empty one, then every kind by turns, and all kinds mixed."""
    draw = random.Random(3)
    kinds: list[Callable[[], str]] = [
        lambda: _script(draw),
        lambda: "".join("".join(draw.choices(digits, k=draw.randint(1, 9))) for digits in _some(draw, _DIGITS, 6)),
        lambda: "".join(_some(draw, _SPACES, 12)),
        lambda: "".join(_some(draw, _EMOJI, 6)),
        lambda: _combining(draw),
        lambda: "".join(_some(draw, _CODE, 5)),
        lambda: " ".join(_some(draw, _WORDS, 8)),
        lambda: "".join(_some(draw, _SPECIAL, 5)),
        lambda: "".join(_scalar(draw) for _ in range(draw.randint(1, 20))),
        lambda: draw.choice("a=-. 0\n") * draw.randint(1, 300),
    ]
    texts = {"": None}
    while len(texts) < count:
        for kind in [*kinds, lambda: "".join(draw.choice(kinds)() for _ in range(5))]:
            texts[kind()] = None
    return list(texts)[:count]


def _script(draw: random.Random) -> str:
    low, high = draw.choice(_SCRIPTS)
    words = (
        "".join(chr(draw.randint(low, high)) for _ in range(draw.randint(1, 9))) for _ in range(draw.randint(1, 9))
    )
    return draw.choice([" ", "", "\n", ", ", ". "]).join(words)


def _some(draw: random.Random, parts: list[str], most: int) -> list[str]:
    return draw.choices(parts, k=draw.randint(1, most))


def _combining(draw: random.Random) -> str:
    words = []
    for marks in range(5):
        words += [draw.choice("aeiounAשबกㅎ"), *(chr(draw.randint(0x300, 0x36F)) for _ in range(marks))]
    return "".join(words)


def _scalar(draw: random.Random) -> str:
    """Any code point but a surrogate."""
    code = draw.randrange(0x110000 - 0x800)
    return chr(code if code < 0xD800 else code + 0x800)
