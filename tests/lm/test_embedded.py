"""The embedded model against transformers, both reading the same GGUF file."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from monosem.lm.chat import Message, chat_format
from monosem.lm.generate import Sampling, collect
from monosem.lm.hookpoints import SITES
from monosem.lm.llama import Llama
from monosem.lm.packed import Packed

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def their_tokenizer(embedded_model_path: Path) -> Any:
    return AutoTokenizer.from_pretrained(embedded_model_path.parent, gguf_file=embedded_model_path.name)


@pytest.fixture(scope="module")
def sentences(embedded: Llama, embedded_texts: list[str]) -> list[list[int]]:
    """200 sentences, one of every length there is and others at random, in random order."""
    ids = [sentence for sentence in embedded.tokenizer.encode_batch(embedded_texts) if 0 < len(sentence) <= 192]
    rng = random.Random(0)
    rng.shuffle(ids)
    chosen = list({len(sentence): sentence for sentence in ids}.values())
    chosen += ids[: 200 - len(chosen)]
    rng.shuffle(chosen)
    return chosen[:200]


@torch.no_grad()
def test_activations_are_transformers_hidden_states(
    embedded: Llama, embedded_reference: Any, sentences: list[list[int]]
) -> None:
    packed = Packed.pack(sentences)
    ours = embedded.activations(packed, ["20.resid_post"])["20.resid_post"]
    lengths, worst = set(), 0.0
    for start, end in zip(packed.offsets[:-1].tolist(), packed.offsets[1:].tolist(), strict=True):
        theirs = embedded_reference.model(packed.ids[None, start:end], output_hidden_states=True).hidden_states[21][0]
        worst = max(worst, float((ours[start:end] - theirs).abs().max() / theirs.abs().max()))
        lengths.add(end - start)
    assert len(lengths) > 90
    assert worst < 1e-4


def test_tokens_are_transformers(embedded: Llama, embedded_texts: list[str], their_tokenizer: Any) -> None:
    texts = random.Random(0).sample(embedded_texts, 5000)
    ours = embedded.tokenizer.encode_batch(texts)
    theirs = their_tokenizer(texts, add_special_tokens=False).input_ids
    assert [text for text, a, b in zip(texts, ours, theirs, strict=True) if a != b] == []


def test_digits_are_split_first_where_transformers_forgets_to(embedded: Llama, their_tokenizer: Any) -> None:
    """The file says `smollm`: digits first, then words. Transformers reads it as plain GPT-2, which takes the last of
    several spaces before a digit for the digit's. Without digits there, or with one space, both agree."""
    tokenizer = embedded.tokenizer
    assert tokenizer.pieces(tokenizer.encode("in  1990")) == ["in", "  ", "1", "9", "9", "0"]
    assert tokenizer.pieces(their_tokenizer("in  1990").input_ids) == ["in", " ", " ", "1", "9", "9", "0"]
    for text in ("in 1990, 3.5", "in  nineteen\n\n  ninety", "x²", "don't 日本語 👩‍👩‍👧"):
        assert tokenizer.encode(text) == their_tokenizer(text).input_ids


def test_chat_is_the_models_own_template(embedded: Llama, their_tokenizer: Any) -> None:
    messages = [Message("user", "Hi!"), Message("assistant", "Hello.\nWell?"), Message("user", "What is 2 + 2?")]
    for conversation in (messages, messages[:1], [Message("system", "Be brief."), *messages]):
        theirs = their_tokenizer.apply_chat_template(
            [message._asdict() for message in conversation], add_generation_prompt=True, return_dict=True
        )
        assert chat_format(embedded.tokenizer).encode(conversation) == theirs["input_ids"]


@pytest.fixture(scope="module")
def prompts(embedded: Llama, embedded_texts: list[str]) -> list[list[int]]:
    """The first halves of 20 sentences, 3 to 40 tokens."""
    long_enough = [text for text in embedded_texts if len(text) > 60]
    texts = random.Random(2).sample(long_enough, 20)
    return [ids[: 3 + 2 * row] for row, ids in enumerate(embedded.tokenizer.encode_batch(texts))]


@pytest.mark.slow
def test_greedy_text_is_transformers(embedded: Llama, embedded_reference: Any, prompts: list[list[int]]) -> None:
    together = collect(embedded.generate(prompts, Sampling(max_new_tokens=64)), len(prompts))
    for prompt, ours in zip(prompts, together, strict=True):
        ids = torch.tensor([prompt])
        theirs = embedded_reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=[0, 2],
            pad_token_id=2,
        )[0, len(prompt) :].tolist()
        assert ours == theirs
        assert collect(embedded.generate([prompt], Sampling(max_new_tokens=64)), 1) == [ours]


@pytest.mark.slow
def test_a_seed_gives_a_row_its_text_in_every_batch(embedded: Llama, prompts: list[list[int]]) -> None:
    settings, seeds = Sampling(max_new_tokens=24, temperature=1.0, top_p=0.95), list(range(100, 120))
    together = collect(embedded.generate(prompts, settings, seeds), len(prompts))
    assert collect(embedded.generate(prompts, settings, seeds), len(prompts)) == together
    backwards = collect(embedded.generate(prompts[::-1], settings, seeds[::-1]), len(prompts))
    assert backwards[::-1] == together
    for row in (0, 7, 19):
        assert collect(embedded.generate([prompts[row]], settings, [seeds[row]]), 1) == [together[row]]
    others = collect(embedded.generate(prompts, settings, [seed + 1 for seed in seeds]), len(prompts))
    assert sum(a != b for a, b in zip(together, others, strict=True)) >= 15


def test_edits_of_nothing_and_resuming(embedded: Llama, sentences: list[list[int]]) -> None:
    packed = Packed.pack(sorted(sentences, key=len)[30:32])
    logits = embedded.logits(packed)
    assert torch.equal(embedded.resume("20.resid_post", *_at(embedded, "20.resid_post", packed)), logits)
    for site in SITES:
        for suffix in ("", ".norm"):
            with embedded.hooks({f"20.{site}{suffix}": lambda x: x}):
                assert (embedded.logits(packed) - logits).abs().max() <= 1e-6, site


def _at(model: Llama, point: str, packed: Packed) -> tuple[torch.Tensor, Packed]:
    return model.activations(packed, [point])[point], packed
