"""A column of texts as search compares them, and which of them hold a word.

The same as `monosem.interpret.search.fold`: no case, no accents, a space for what is no letter or digit. Nearly all
texts of a Latin script are ASCII, whose bytes are translated as one block; the others go through Unicode. A million
sentences cost a second once, and a tenth of it for every word.
"""

import string
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

pc: Any = pyarrow.compute  # its functions are made when it is imported, which no type checker sees
_LETTERS = string.ascii_lowercase + string.digits
_TABLE = bytes(ord(chr(code).lower()) if chr(code).lower() in _LETTERS else 0x20 for code in range(128)) + bytes(128)
BEYOND_SMALL = (("ß", "ss"), ("ς", "\N{GREEK SMALL LETTER SIGMA}"))  # where folding case is more than writing small


class Folded:
    """Folded texts.

    Args:
        texts: strings; a null is a text without words.
    """

    def __init__(self, texts: pa.ChunkedArray) -> None:
        texts = pc.fill_null(texts, "")
        ascii_only = pc.string_is_ascii(texts)
        mask = ascii_only.to_numpy()
        self._size = len(mask)
        self._parts = [
            (np.flatnonzero(mask), [_translated(chunk) for chunk in texts.filter(ascii_only).chunks]),
            (np.flatnonzero(~mask), _by_unicode(texts.filter(pc.invert(ascii_only))).chunks),
        ]

    def holding(self, words: list[str]) -> NDArray[np.bool_]:
        """Which texts hold all of these folded words, each at the beginning of a word."""
        held = np.ones(self._size, dtype=bool)
        for word in words:
            for rows, chunks in self._parts:
                found = [_holds(chunk, word) for chunk in chunks]
                if found:
                    held[rows] &= np.concatenate(found)
        return held


def _holds(texts: pa.Array, word: str) -> NDArray[np.bool_]:
    inside, first = pc.match_substring(texts, f" {word}"), pc.starts_with(texts, word)
    return pc.or_(inside, first).to_numpy(zero_copy_only=False)


def _translated(texts: pa.StringArray) -> pa.Array:
    """ASCII alone: a byte stays a byte, so the offsets stay too."""
    if texts.offset:
        texts = pa.concat_arrays([texts])  # a slice gets buffers of its own
    _, offsets, content = texts.buffers()
    folded = bytes(content or b"").translate(_TABLE)
    return pa.Array.from_buffers(pa.string(), len(texts), [None, offsets, pa.py_buffer(folded)])


def _by_unicode(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    folded = pc.utf8_lower(texts)
    for letter, same in BEYOND_SMALL:
        folded = pc.replace_substring(folded, letter, same)
    folded = pc.utf8_normalize(folded, form="NFKD")
    folded = pc.replace_substring_regex(folded, r"\p{M}", "")
    return pc.replace_substring_regex(folded, r"[^\p{L}\p{N}]+", " ")
