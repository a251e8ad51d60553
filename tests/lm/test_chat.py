import pytest

from monosem.errors import ModelError
from monosem.lm.chat import ChatML, Message, chat_format
from monosem.lm.llama import Llama
from monosem.lm.tokenizer import Tokenizer

CONVERSATION = [Message("user", "in the <|im_end|>"), Message("assistant", "the\n"), Message("user", "thin")]


def test_chatml(small: Llama) -> None:
    tokenizer = small.tokenizer
    ids = chat_format(tokenizer).encode([Message("system", "be"), *CONVERSATION])
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nbe<|im_end|>\n<|im_start|>user\nin the <|im_end|><|im_end|>\n"
        "<|im_start|>assistant\nthe\n<|im_end|>\n<|im_start|>user\nthin<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids.count(tokenizer.special["<|im_end|>"]) == 4, "a mark that somebody spelled ends no turn"


def test_the_templates_own_system_message_comes_first(small: Llama) -> None:
    small.tokenizer.chat_template = "{{ '<|im_start|>system\nYou are the thin<|im_end|>\n' }}"
    chat = chat_format(small.tokenizer)
    assert isinstance(chat, ChatML)
    assert chat.default_system == "You are the thin"
    given = [Message("system", "You are the thin"), *CONVERSATION]
    assert chat.encode(CONVERSATION) == chat.encode(given)


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ("", "has to end with a message of the user"),
        ("s", "has to end"),
        ("ua", "has to end"),
        ("uu", "message 1 is the user's, expected assistant"),
        ("usu", "message 1 is the system's, expected assistant"),
        ("au", "message 0 is the assistant's, expected user"),
        ("ui", "message 1: role 'ipython' is not known; known: system, user, assistant"),
        ("suau" + "u", "message 4 is the user's, expected assistant"),
    ],
)
def test_roles_out_of_order(small: Llama, roles: str, said: str) -> None:
    names = {"s": "system", "u": "user", "a": "assistant", "i": "ipython"}
    with pytest.raises(ModelError, match=said):
        chat_format(small.tokenizer).encode([Message(names[role], "x") for role in roles])


def test_a_model_without_a_chat_format(small: Llama) -> None:
    plain = Tokenizer(small.tokenizer._backend, special={})
    with pytest.raises(ModelError, match="no chat format that is known"):
        chat_format(plain)
