"""A beginning-of-sequence token for the families that are lost without it.

monosem puts none before a sentence, so that latents carry meaning, not position. Gemma has never seen a text without
one: without it, it predicts next to nothing (docs/decisions/0003-beginning-of-sequence.md). So its tokenizer puts one
before every text. The token counts as position 0, where `capture.drop_first` leaves its activation out.
"""

from collections.abc import Sequence

from monosem.lm.tokenizer import Tokenizer, TokenSpans

_FAMILIES = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text"})
"""Model types in transformers."""


def with_bos(tokenizer: Tokenizer, model_type: str) -> Tokenizer:
    """`tokenizer`, or where the family needs it one that puts its `bos_id` before every text."""
    if model_type not in _FAMILIES or tokenizer.bos_id is None:
        return tokenizer
    return BosTokenizer(tokenizer, tokenizer.bos_id)


class BosTokenizer(Tokenizer):
    """Puts `bos` before every text that is not empty. It stands for no character of the text."""

    def __init__(self, bare: Tokenizer, bos: int):
        super().__init__(bare._backend, bare.special, bare.eos_ids, bare.chat_template, bos)
        self.bare = bare
        """The same without."""
        self.vocab_size = bare.vocab_size
        self._bos = bos

    def encode(self, text: str, special: bool = False) -> list[int]:
        ids = self.bare.encode(text, special)
        return ids if ids[:1] == [self._bos] else self._led(ids)  # a prompt may have spelled it

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._led(ids) for ids in self.bare.encode_batch(texts)]

    def spans(self, text: str) -> TokenSpans:
        ids, starts, ends = self.bare.spans(text)
        return TokenSpans(self._led(ids), [0, *starts], [0, *ends]) if ids else TokenSpans([], [], [])

    def _led(self, ids: list[int]) -> list[int]:
        return [self._bos, *ids] if ids else []
