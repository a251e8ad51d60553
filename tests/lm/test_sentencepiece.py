"""SentencePiece vocabularies: encoding by scores, spans, pieces, decoding as ids come."""

import pytest
from tokenizers import decoders

from monosem.lm.huggingface.bos import BosTokenizer, with_bos
from monosem.lm.sentencepiece import CONTROL, NORMAL, USER_DEFINED, sentencepiece_bpe
from monosem.lm.tokenizer import Tokenizer

BYTE = 6
WORDS = ["▁t", "he", "▁the", "in", "▁in", "th"]  # best score first
TEXTS = ["the thin", " the  €in\n\n", "in𒍅𒍅t", "👩‍👩‍👧in", "", "▁t", "naïve café"]


def build() -> Tokenizer:
    letters = [*"thein▁ ", "\n"]
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "\n\n", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *WORDS]
    kinds = [CONTROL] * 4 + [USER_DEFINED] + [BYTE] * 256 + [NORMAL] * (len(letters) + len(WORDS))
    scores = [0.0] * (261 + len(letters)) + [-float(rank) for rank in range(len(WORDS))]
    special = {piece: index for index, piece in enumerate(pieces[:4])}
    return Tokenizer(sentencepiece_bpe(pieces, scores, kinds), special, eos_ids=[1], bos_id=2)


@pytest.fixture
def tokenizer() -> Tokenizer:
    return build()


def test_the_best_score_is_joined_first(tokenizer: Tokenizer) -> None:
    assert tokenizer.pieces(tokenizer.encode("the the")) == ["t", "he", " the"]
    assert tokenizer.pieces(tokenizer.encode("in\n\nin")) == ["in", "\n\n", "in"], "user-defined pieces are never cut"
    assert tokenizer.pieces(tokenizer.encode("<bos>"))[0] == "<", "the spelling of a special token stays text"
    assert tokenizer.encode("<bos>in", special=True) == [2, *tokenizer.encode("in")]


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_whole_and_as_it_comes(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    whole = text.replace("▁", " ")  # the one character that the vocabulary spends on spaces
    assert tokenizer.decode(ids) == whole
    stream = tokenizer.stream()
    parts = [stream.push(token) for token in ids]
    assert "".join([*parts, stream.close()]) == whole
    assert not any("\ufffd" in part for part in parts)


def test_characters_in_bytes_are_streamed_one_by_one(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    parts = [stream.push(token) for token in tokenizer.encode("€€é")]
    assert parts == ["", "", "€", "", "", "€", "", "é"]
    assert stream.push(tokenizer.encode("€")[0]) == ""
    assert set(stream.close()) == {"\ufffd"}


def test_spans_are_the_characters_of_the_text(tokenizer: Tokenizer) -> None:
    text = "the €in the"
    ids, starts, ends = tokenizer.spans(text)
    assert ids == tokenizer.encode(text)
    assert [text[a:b] for a, b in zip(starts, ends, strict=True)] == ["t", "he", " ", "€", "€", "€", "in", " the"]
    assert tokenizer.pieces(ids) == ["t", "he", " ", "<E2>", "<82>", "<AC>", "in", " the"]


def test_a_decoder_that_takes_the_first_space_takes_none_from_the_pieces(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("in the in")
    backend = tokenizer._backend
    backend.decoder = decoders.Sequence([backend.decoder, decoders.Strip(" ", 1, 0)])
    assert tokenizer.pieces(ids) == ["in", " the", " in"]
    stream = tokenizer.stream()
    assert "".join(stream.push(token) for token in ids) == "in the in"


def test_bos_leads_every_text_but_an_empty_one(tokenizer: Tokenizer) -> None:
    led = with_bos(tokenizer, "gemma3_text")
    assert isinstance(led, BosTokenizer)
    assert led.encode("the in") == [2, *tokenizer.encode("the in")]
    assert led.encode_batch(["in", "", "the"]) == [led.encode("in"), [], led.encode("the")]
    assert led.encode("<bos>in", special=True) == led.encode("in")
    ids, starts, ends = led.spans("in the")
    assert (ids, starts, ends) == (led.encode("in the"), [0, 0, 2], [0, 2, 6])
    assert led.spans("") == ([], [], [])
    assert led.decode(led.encode("in the")[1:]) == "in the"
    assert (led.eos_ids, led.special, led.vocab_size) == (tokenizer.eos_ids, tokenizer.special, tokenizer.vocab_size)
    assert with_bos(tokenizer, "qwen3") is tokenizer
