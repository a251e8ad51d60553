"""Text to token ids and back, over the Hugging Face `tokenizers` library.

Built from a `tokenizer.json` or from the vocabulary and merges inside a GGUF file. No beginning-of-sequence token is
ever added, and the spelling of a special token in plain text stays text, unless asked for.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

from monosem.errors import ModelError

_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "</s>")
"""Special tokens that close a text, in the vocabularies of the models that are known."""

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class TokenSpans(NamedTuple):
    """The tokens of one text and where they stand in it."""

    ids: list[int]
    starts: list[int]
    """Character offset of each token's first character."""
    ends: list[int]
    """Character offset behind its last. Tokens that share the bytes of one character all span it."""


class Tokenizer:
    """One model's tokenizer."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special: Mapping[str, int],
        eos_ids: Sequence[int] = (),
        chat_template: str | None = None,
    ):
        """`special`: spelling -> id of the tokens that are never found in plain text."""
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.special = dict(special)
        """Spelling -> id of the special tokens."""
        self.chat_template = chat_template
        """The checkpoint's own template (Jinja), where it has one; read by `monosem.lm.chat`."""
        ends = [special[token] for token in _ENDS if token in special]
        self.eos_ids = tuple(dict.fromkeys([*eos_ids, *ends]))
        """Tokens that close a text."""
        self.vocab_size = max(
            backend.get_vocab_size(with_added_tokens=True), max(self.special.values(), default=-1) + 1
        )
        self._special_pattern = re.compile(
            "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True))
        )

    @classmethod
    def from_gguf(cls, fields: Mapping[str, object], source: str = "the GGUF file") -> "Tokenizer":
        """Build from a GGUF's `tokenizer.*` fields.

        Raises:
            ModelError: the vocabulary is not byte-level BPE, or its pre-tokenizer is not known.
        """
        kind, split = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
        if kind != "gpt2":
            raise ModelError(f"{source}: tokenizer model {kind!r} is not known; 'gpt2' (byte-level BPE) is")
        if split not in _PRE_TOKENIZERS:
            raise ModelError(
                f"{source}: pre-tokenizer {split!r} is not known; known: {', '.join(sorted(_PRE_TOKENIZERS))}"
            )
        tokens: list[str] = fields["tokenizer.ggml.tokens"]  # pyright: ignore[reportAssignmentType]
        kinds: list[int] = fields["tokenizer.ggml.token_type"]  # pyright: ignore[reportAssignmentType]
        merges: list[str] = fields["tokenizer.ggml.merges"]  # pyright: ignore[reportAssignmentType]
        vocab = {token: index for index, token in enumerate(tokens)}
        pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
        # llama.cpp looks a whole word up before it merges for the llama-bpe family, as tiktoken does.
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=split == "llama-bpe"))
        backend.pre_tokenizer = _PRE_TOKENIZERS[str(split)]
        backend.decoder = decoders.ByteLevel()
        special = {
            token: index for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == _CONTROL
        }
        eos = fields.get("tokenizer.ggml.eos_token_id")
        template = fields.get("tokenizer.chat_template")
        return cls(backend, special, [int(str(eos))] if eos is not None else [], str(template) if template else None)

    @classmethod
    def from_file(cls, path: Path, eos_ids: Sequence[int] = (), chat_template: str | None = None) -> "Tokenizer":
        """Read a `tokenizer.json`.

        Raises:
            ModelError: it is missing or not of the `tokenizers` library.
        """
        if not path.is_file():
            raise ModelError(f"{path}: no such file; a model folder needs its tokenizer.json")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{path}: not a tokenizer.json: {error}") from None
        special = {token.content: index for index, token in backend.get_added_tokens_decoder().items() if token.special}
        return cls(backend, special, eos_ids, chat_template)

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Return the ids of `text`. With `special`, spellings of special tokens become these tokens."""
        if not special or not self.special:
            return self._backend.encode(text, add_special_tokens=False).ids
        ids: list[int] = []
        end = 0
        for found in self._special_pattern.finditer(text):
            ids += [*self.encode(text[end : found.start()]), self.special[found.group()]]
            end = found.end()
        return ids + self.encode(text[end:])

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, encoded on all cores."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def spans(self, text: str) -> TokenSpans:
        """Return the ids of `text` with the characters each stands for."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        return TokenSpans(encoding.ids, [start for start, _ in encoding.offsets], [end for _, end in encoding.offsets])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens spelled out; bytes that are no UTF-8 become U+FFFD."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return each token by itself, for display; part of a character is shown as its bytes, `<E2><80>`."""
        return [self._piece(token) for token in ids]

    def _piece(self, token: int) -> str:
        text = self.decode([token])
        if "\ufffd" not in text:
            return text
        spelled = self._backend.id_to_token(token) or ""
        if not set(spelled) <= _BYTES.keys():
            return text
        return "".join(
            chr(byte) if byte < 0x80 else f"<{byte:02X}>" for byte in (_BYTES[character] for character in spelled)
        )

    def stream(self) -> "StreamDecoder":
        """Begin to decode ids as they come."""
        return StreamDecoder(self)


class StreamDecoder:
    """Decodes one id after the other; a character is handed out once its last byte is there."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0  # the ids before this have been handed out; decoders that trim a first space need one of them

    def push(self, token: int) -> str:
        """Take the next id; returns the text that is now complete, often one piece, sometimes nothing."""
        self._ids.append(token)
        fresh = self._fresh()
        if fresh.endswith("\ufffd"):
            return ""
        self._ids = self._ids[-1:]
        self._context = 1
        return fresh

    def close(self) -> str:
        """End the stream; returns what was held back, incomplete characters as U+FFFD."""
        fresh = self._fresh()
        self._ids, self._context = [], 0
        return fresh

    def _fresh(self) -> str:
        known = self._tokenizer.decode(self._ids[: self._context])
        return self._tokenizer.decode(self._ids)[len(known) :]


_CONTROL = 3  # gguf.TokenType.CONTROL


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


_PRE_TOKENIZERS: dict[str, pre_tokenizers.PreTokenizer] = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": _split(_LLAMA3_SPLIT),
}
"""By the name in `tokenizer.ggml.pre`."""


def _byte_alphabet() -> dict[str, int]:
    """The byte behind each character of a byte-level vocabulary (GPT-2): printable Latin-1 stands for itself."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_alphabet()
