"""Text to token ids and back, over the Hugging Face `tokenizers` library.

Built from a `tokenizer.json`, from the vocabulary and merges inside a GGUF file, or by `tiktoken_file`. No
beginning-of-sequence token is ever added, and the spelling of a special token in plain text stays text, unless asked
for.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tokenizers

from monosem.errors import ModelError
from monosem.lm.byte_level import BYTES, SPLITS, byte_level_bpe
from monosem.lm.sentencepiece import SPACE

_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "</s>")
"""Special tokens that close a text, in the vocabularies of the models that are known."""


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
        bos_id: int | None = None,
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
        self.bos_id = bos_id
        """The token that the model expects before a text, where it expects one; only `encode_prompt` adds it."""
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
        if split not in SPLITS:
            raise ModelError(f"{source}: pre-tokenizer {split!r} is not known; known: {', '.join(sorted(SPLITS))}")
        tokens: list[str] = fields["tokenizer.ggml.tokens"]  # pyright: ignore[reportAssignmentType]
        kinds: list[int] = fields["tokenizer.ggml.token_type"]  # pyright: ignore[reportAssignmentType]
        merges: list[str] = fields["tokenizer.ggml.merges"]  # pyright: ignore[reportAssignmentType]
        vocab = {token: index for index, token in enumerate(tokens)}
        pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
        # llama.cpp looks a whole word up before it merges for the llama-bpe family, as tiktoken does.
        backend = byte_level_bpe(vocab, pairs, split=str(split), whole_words=split == "llama-bpe")
        special = {
            token: index for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == _CONTROL
        }
        eos = fields.get("tokenizer.ggml.eos_token_id")
        template = fields.get("tokenizer.chat_template")
        ends = [int(str(eos))] if eos is not None else []
        return cls(backend, special, ends, str(template) if template else None, _gguf_bos(fields))

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
        return cls(backend, special, eos_ids, chat_template, _bos_of(backend))

    def save(self, path: Path) -> None:
        """Write a `tokenizer.json` that `from_file` reads; the chat template is not in it."""
        copy = tokenizers.Tokenizer.from_str(self._backend.to_str())
        copy.add_special_tokens(list(self.special))
        copy.save(str(path))

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

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a text that the model is to go on with: behind `bos_id`, where there is one.

        Sentences that are read for their activations stay without it: latents are to carry meaning, not position.
        """
        ids = self.encode(text)
        return ids if self.bos_id is None or not ids or ids[0] == self.bos_id else [self.bos_id, *ids]

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
        text, spelled = self.decode([token]), self._backend.id_to_token(token) or ""
        if "\ufffd" not in text:
            # SentencePiece's decoder takes the space from the first piece of a text, and here every piece is one
            return f" {text}" if spelled.startswith(SPACE) and not text.startswith(" ") else text
        if _BYTE_PIECE.fullmatch(spelled):
            return f"<{spelled[3:]}"
        if not set(spelled) <= BYTES.keys():
            return text
        return "".join(
            chr(byte) if byte < 0x80 else f"<{byte:02X}>" for byte in (BYTES[character] for character in spelled)
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
        # what was handed out, whole: the last byte of a character is no context for the bytes of the next
        self._ids = self._ids[self._context :]
        self._context = len(self._ids)
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
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")  # SentencePiece's spelling of a byte


def _bos_of(backend: tokenizers.Tokenizer) -> int | None:
    """The token that a tokenizer.json's own post-processor puts before a text."""
    whole, bare = (backend.encode("a", add_special_tokens=added).ids for added in (True, False))
    return whole[0] if whole[:1] != bare[:1] else None


def _gguf_bos(fields: Mapping[str, object]) -> int | None:
    """The token before a text; files of the llama-bpe kind need not ask for it, llama.cpp adds it to all of them."""
    asked = fields.get("tokenizer.ggml.add_bos_token", fields["tokenizer.ggml.pre"] == "llama-bpe")
    bos = fields.get("tokenizer.ggml.bos_token_id")
    return int(str(bos)) if asked and bos is not None else None
