"""Meta's `tokenizer.model` of Llama 3: byte strings with their ranks, in base64, and 256 special tokens behind them.

A rank is an id and a priority at once: the two neighbours whose union has the lowest rank are joined first. Written out
as merges this is the BPE of the `tokenizers` library, which gives the same ids as tiktoken and, beyond it, spans.
"""

import base64
import binascii
from pathlib import Path

from monosem.errors import ModelError
from monosem.lm.byte_level import BYTES, byte_level_bpe
from monosem.lm.tokenizer import Tokenizer

_NAMED = {
    0: "begin_of_text",
    1: "end_of_text",
    4: "finetune_right_pad_id",
    5: "step_id",
    6: "start_header_id",
    7: "end_header_id",
    8: "eom_id",
    9: "eot_id",
    10: "python_tag",
    11: "image",
}
_N_SPECIAL = 256


def read_tiktoken(path: Path) -> Tokenizer:
    """Read a `tokenizer.model` of the Llama 3 family.

    The ids are those of Meta's tokenizer, except that it cuts a run of more than 25,000 characters with no white space
    (or of nothing else) first, which tiktoken needs and this does not.

    Raises:
        ModelError: it is missing, damaged, or of another kind (Llama 2's is a SentencePiece model).
    """
    ranks = _read_ranks(path)
    spelled = _spellings(ranks)
    vocab = {spelled[token]: rank for token, rank in ranks.items()}
    backend = byte_level_bpe(vocab, _merges(ranks, spelled), split="llama-bpe", whole_words=True)
    names = special_tokens()
    backend.add_special_tokens(names)  # in order, from the first free id on
    special = {name: len(ranks) + index for index, name in enumerate(names)}
    return Tokenizer(backend, special, bos_id=special["<|begin_of_text|>"])


def special_tokens() -> list[str]:
    """The special tokens of Llama 3, in the order of their ids; those without a use are reserved and numbered."""
    names = []
    reserved = 0
    for index in range(_N_SPECIAL):
        if index not in _NAMED:
            names.append(f"<|reserved_special_token_{reserved}|>")
            reserved += 1
        else:
            names.append(f"<|{_NAMED[index]}|>")
    return names


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Token -> rank, in the order of the ranks 0, 1, ..."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file; a Meta folder needs its tokenizer.model")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ModelError(f"{path}: line {number} is not a token in base64 and its rank; {_MEND}") from None
    if list(ranks.values()) != list(range(len(ranks))):
        raise ModelError(f"{path}: its ranks are not 0, 1, 2, ... with a token each; {_MEND}")
    if not all(bytes([byte]) in ranks for byte in range(256)):
        raise ModelError(f"{path}: not every single byte is a token; {_MEND}")
    return ranks


_MEND = "expected the tiktoken file of Llama 3, download it again"


def _spellings(ranks: dict[bytes, int]) -> dict[bytes, str]:
    letters = {byte: letter for letter, byte in BYTES.items()}
    return {token: "".join(letters[byte] for byte in token) for token in ranks}


def _merges(ranks: dict[bytes, int], spelled: dict[bytes, str]) -> list[tuple[str, str]]:
    """Every way to make a token of two others, by the token's rank, then by the ranks of the two."""
    merges: list[tuple[str, str]] = []
    for token in ranks:
        cuts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs = [pair for pair in cuts if pair[0] in ranks and pair[1] in ranks]
        pairs.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [(spelled[left], spelled[right]) for left, right in pairs]
    return merges
