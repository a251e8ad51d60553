"""Byte-level BPE for the `tokenizers` library: its alphabet, the splits into words that are known, and assembly.

Knows no file format; `tokenizer` (GGUF) and `tiktoken_file` hand over vocabularies and merges.
"""

from collections.abc import Mapping, Sequence

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers


def byte_level_bpe(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], split: str, whole_words: bool
) -> tokenizers.Tokenizer:
    """Assemble a byte-level BPE.

    Args:
        vocab: token, spelled in the alphabet of `BYTES` -> id.
        merges: pairs of tokens, the one to join first at the head.
        split: how text is cut into words, a key of `SPLITS`.
        whole_words: look a word up in the vocabulary before joining its bytes, as tiktoken does.
    """
    backend = tokenizers.Tokenizer(models.BPE(vocab=dict(vocab), merges=list(merges), ignore_merges=whole_words))
    backend.pre_tokenizer = SPLITS[split]
    backend.decoder = decoders.ByteLevel()
    return backend


def _byte_alphabet() -> dict[str, int]:
    """The byte behind each character of a byte-level vocabulary (GPT-2): printable Latin-1 stands for itself."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTES = _byte_alphabet()
"""Character of the alphabet -> the byte it spells."""


def _by_pattern(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SPLITS: dict[str, pre_tokenizers.PreTokenizer] = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": _by_pattern(_LLAMA3),
}
"""By the name that GGUF files give them in `tokenizer.ggml.pre`."""
