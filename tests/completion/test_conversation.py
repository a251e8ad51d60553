"""A conversation: its prompts, its memory, and a context that is full."""

import pytest
from random_model import random_llama
from small_run import chatty_llama

from monosem.completion import Conversation
from monosem.errors import ModelError
from monosem.lm.chat import Message, chat_format
from monosem.lm.generate import Sampling

SAMPLING = Sampling(max_new_tokens=10)


def conversation(**arguments):
    return Conversation(chatty_llama().tokenizer, 128, **arguments)


def prompt(*messages):
    return chat_format(chatty_llama().tokenizer).encode([Message(*message) for message in messages])


def test_every_question_comes_with_all_turns_before():
    talk = conversation(system="Be brief.")
    system = ("system", "Be brief.")
    assert talk.ask("Hi", SAMPLING).prompt.ids == prompt(system, ("user", "Hi"))
    assert talk.turns == [], "a question without an answer leaves nothing"
    talk.add("Hi", "Yes?")
    asked = talk.ask("Go", SAMPLING)
    assert asked.prompt.ids == prompt(system, ("user", "Hi"), ("assistant", "Yes?"), ("user", "Go"))
    assert asked.prompt.text == "Go"
    talk.reset()
    assert talk.ask("Hi", SAMPLING).prompt.ids == prompt(system, ("user", "Hi"))


def test_an_answer_gets_what_room_the_context_has():
    talk = conversation()
    used = len(prompt(("user", "")))
    asked = talk.ask("x" * (124 - used), SAMPLING)
    assert len(asked.prompt.ids) == 124
    assert asked.sampling.max_new_tokens == 4
    assert talk.ask("x", SAMPLING).sampling == SAMPLING


def test_a_full_context_is_told_and_nothing_is_lost():
    talk = conversation()
    talk.add("Hi", "Yes?")
    before = talk.turns.copy()
    with pytest.raises(ModelError, match=r"context is full: .* tokens of 128; nothing was sent.*/reset"):
        talk.ask("x" * 128, SAMPLING)
    assert talk.turns == before
    assert talk.ask("x", SAMPLING)


@pytest.mark.parametrize(("text", "told"), [(" \t", "is empty"), ("a\udcff", "not UTF-8")])
def test_messages_that_are_none(text, told):
    with pytest.raises(ModelError, match=told):
        conversation().ask(text, SAMPLING)


def test_a_model_without_a_chat_format():
    with pytest.raises(ModelError, match="no chat format"):
        Conversation(random_llama().tokenizer, 128)
