"""Text that a model wrote, made fit for a terminal: no control characters, lines that break between words."""

from rich.cells import cell_len

SOON = 16  # cells: a word that may grow past the edge within its next pieces waits until it is whole

_SIGNS = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
_SIGNS |= {0x7F: "␡", **dict.fromkeys(range(0x80, 0xA0), "\ufffd")}


def printable(text: str) -> str:
    """`text` with control characters as signs, so that none reaches the terminal; tabs and line ends stay."""
    return text.translate(_SIGNS)


class WordWrap:
    """Breaks text that comes in pieces into lines for a terminal. Only the word at the edge is held back.

    Args:
        width: cells of the terminal. The last stays free: what happens behind it differs between terminals.
    """

    def __init__(self, width: int) -> None:
        self._room = max(1, width - 1)
        self._column = 0
        self._word = ""
        """Held back: spaces and the letters behind them."""

    def push(self, text: str) -> str:
        """Take a piece; returns what is to be shown now."""
        shown = ""
        for character in text:
            if character == "\n":
                shown += self.close() + "\n"
                self._column = 0
                continue
            if character == " " and self._word.strip(" "):
                shown += self.close()
            self._word += character
        cells = cell_len(self._word)
        if cells > SOON or self._column + cells + SOON <= self._room:
            shown += self.close()
        return shown

    def close(self) -> str:
        """What was held back, on the next line where this one has no room for it."""
        word, self._word = self._word, ""
        cells = cell_len(word)
        if not self._column or self._column + cells <= self._room:
            self._column = (self._column + cells) % (self._room + 1)  # what is wider than a line, the terminal breaks
            return word
        word = word.lstrip(" ")
        if not word:
            return ""
        self._column = cell_len(word) % (self._room + 1)
        return "\n" + word
