from pathlib import Path

import pytest
from small_models import write_gguf, write_tokenizer
from transformers import LlamaForCausalLM

from monosem.lm.checkpoint import load_model
from monosem.lm.tokenizer import Tokenizer

TEXTS = [
    "the thin the",
    "  two  spaces,\n\n\ttabs 1234 ",
    "Ünïcödé, 日本語, العربية, हिन्दी",
    "emoji 👩‍👩‍👧 and flags 🇫🇷",
    "<|im_end|> spelled out <|begin|>",
    "",
]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    write_tokenizer(tmp_path)
    return Tokenizer.from_file(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_and_special_tokens_stay_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.special.values())
    assert "".join(tokenizer.pieces(ids)).isascii() or "<" in "".join(tokenizer.pieces(ids))


def test_a_batch_gives_what_single_texts_give(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_batch(TEXTS) == [tokenizer.encode(text) for text in TEXTS]


def test_special_tokens_when_asked_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.special == {"<|begin|>": 260, "<|im_start|>": 261, "<|im_end|>": 262}
    ids = tokenizer.encode("<|im_start|>the<|im_end|>", special=True)
    assert (ids[0], ids[-1]) == (261, 262)
    assert ids[1:-1] == tokenizer.encode("the")
    assert tokenizer.decode(ids) == "<|im_start|>the<|im_end|>"
    assert tokenizer.encode("the", special=True) == tokenizer.encode("the")
    assert tokenizer.vocab_size == 263
    assert tokenizer.eos_ids == (262,)


@pytest.mark.parametrize("text", TEXTS)
def test_spans_cover_the_text(tokenizer: Tokenizer, text: str) -> None:
    spans = tokenizer.spans(text)
    assert spans.ids == tokenizer.encode(text)
    covered = {place for start, end in zip(spans.starts, spans.ends, strict=True) for place in range(start, end)}
    assert covered == set(range(len(text)))
    assert spans.starts == sorted(spans.starts)
    for token, start, end in zip(spans.ids, spans.starts, spans.ends, strict=True):
        piece = tokenizer.decode([token])
        assert "\ufffd" in piece or piece == text[start:end]


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_hands_out_whole_characters(tokenizer: Tokenizer, text: str) -> None:
    stream = tokenizer.stream()
    parts = [stream.push(token) for token in tokenizer.encode(text)]
    assert all("\ufffd" not in part for part in parts)
    assert "".join(parts) == text
    assert stream.close() == ""


def test_a_stream_that_ends_within_a_character(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    parts = [stream.push(token) for token in tokenizer.encode("a日")[:-1]]
    assert "".join(parts) == "a"
    assert stream.close() == "\ufffd"


def test_pieces_show_the_bytes_of_part_of_a_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.pieces(tokenizer.encode("the é")) == ["the", " ", "<C3>", "<A9>"]


def test_digits_stand_alone_under_smollm(reference: LlamaForCausalLM, tmp_path: Path) -> None:
    tokenizer = load_model(write_gguf(tmp_path / "model.gguf", reference, pre="smollm")).tokenizer
    assert tokenizer.pieces(tokenizer.encode("the 123")) == ["the", " ", "1", "2", "3"]
