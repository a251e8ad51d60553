"""A chat through a pipe and on a pseudo-terminal: turns, commands, mistakes, and Ctrl-C."""

import io
import signal
import sys

import pytest
from random_model import HOOK_POINT, random_sae
from rich.console import Console
from small_run import chatty_llama

from monosem.app.chat import chat
from monosem.app.commands import COMMANDS, Session
from monosem.completion import Completer, Conversation, SteeringSet
from monosem.lm.chat import Message, chat_format
from monosem.lm.generate import Sampling, collect
from monosem.steering import Edit, Steering

SAMPLING = Sampling(max_new_tokens=8)


@pytest.fixture
def model():
    return chatty_llama()


@pytest.fixture
def session(run, model):
    console = Console(file=io.StringIO(), highlight=False, width=80)
    return Session(Completer(run, model), Conversation(model.tokenizer, 128), console, SAMPLING, SteeringSet())


@pytest.fixture
def say(session, monkeypatch, capsys):
    """Give lines to the chat; returns what it printed for them, and what it complained of."""

    def say_(*lines):
        before = len(session.console.file.getvalue())
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        chat(session)
        return session.console.file.getvalue()[before:], capsys.readouterr().err

    return say_


def expected(model, *messages, edits=()):
    ids = chat_format(model.tokenizer).encode([Message(*message) for message in messages])
    with model.hooks({HOOK_POINT: Steering(random_sae(), edits)} if edits else {}):
        (new,) = collect(model.generate([ids], SAMPLING), 1)
    return model.tokenizer.decode([token for token in new if token not in model.tokenizer.eos_ids])


def test_questions_are_answered_turn_by_turn(say, model, session):
    first = expected(model, ("user", "Hi"))
    second = expected(model, ("user", "Hi"), ("assistant", first), ("user", "Go on"))
    shown, complaints = say("Hi", "", "Go on")
    assert shown == f"{first}\n(cut off after 8 tokens)\n{second}\n(cut off after 8 tokens)\n"
    assert complaints == ""
    assert session.conversation.turns == [*map(Message, ["user", "assistant"] * 2, ["Hi", first, "Go on", second])]


def test_steering_is_set_listed_changed_and_let_go(say, model, session):
    shown, _ = say("/steer 4=20 3 = 2max", "Hi")
    edits = [Edit(4, 20.0), Edit(3, 4.0)]
    assert shown.splitlines()[:2] == [
        "        4=20  add     meaning 4",
        "      3=2max  add     (no explanation)",
    ]
    assert expected(model, ("user", "Hi"), edits=edits) in shown
    assert expected(model, ("user", "Hi")) not in shown
    shown, _ = say("/mode clamp", "/steer 5=1", "/steer")
    assert session.steering.edits == (Edit(4, 20.0, "clamp"), Edit(3, 2.0, "clamp", "max"), Edit(5, 1.0, "clamp"))
    assert shown.splitlines()[0] == "mode: clamp"
    assert say("/steer off")[0] == "nothing is steered\n"
    assert say("/reset", "Hi")[0].splitlines()[1] == expected(model, ("user", "Hi"))
    assert say("/mode ablate", "/steer 7")[0].splitlines()[1] == "           7  ablate  (no explanation)"


def test_a_steering_goes_to_a_file_and_comes_back(say, session, tmp_path):
    file = tmp_path / "calm.toml"
    shown, _ = say("/steer 4=20", f"/save {file}", "/steer off", f"/load {file}")
    assert f"1 edits in {file}" in shown
    assert session.steering == SteeringSet.load(file) == SteeringSet((Edit(4, 20.0),))


def test_a_comparison_goes_on_with_the_steered_answer(say, model, session):
    shown, _ = say("/steer 4=20", "/compare", "Hi")
    plain, steered = expected(model, ("user", "Hi")), expected(model, ("user", "Hi"), edits=[Edit(4, 20.0)])
    assert f"plain:\n{plain}\n(perplexity" in shown
    assert f"steered:\n{steered}\n(perplexity" in shown
    assert session.conversation.turns[-1] == Message("assistant", steered)
    assert "one answer" in say("/compare")[0]


def test_latents_of_the_last_answer_and_of_every_answer(say):
    assert say("/latents")[0] == "there is no finished answer yet\n"
    shown, _ = say("Hi", "/latents")
    assert shown.count("meaning") > 3
    shown, _ = say("/latents on", "Hi", "/latents off", "Hi")
    assert shown.count("before any edit") == 1


def test_the_system_message_and_the_temperature(say, model, session):
    shown, _ = say("/system", "/system Be brief.", "Hi", "/temperature", "/temperature 1.5")
    assert shown.splitlines()[:2] == ["system message: (the default of the model)", "system message: Be brief."]
    assert expected(model, ("system", "Be brief."), ("user", "Hi")) in shown
    assert session.sampling.temperature == 1.5


def test_help_names_every_command(say):
    shown, _ = say("/help")
    assert all(f"/{name}" in shown for name in [*COMMANDS, "quit"])


def test_quit_ends_it(say):
    assert say("/quit", "/nonsense") == ("", "")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/stear 3=1", "no command /stear; did you mean /steer?"),
        ("/xyzzy", "no command /xyzzy; /help lists them"),
        ("/", "no command /; /help lists them"),
        ("/steer 4=2 99=1", "latent 99 is out of range"),
        ("/steer eight", "expected LATENT=VALUE"),
        ("/mode push", "/mode push: expected add, clamp, scale, ablate"),
        ("/temperature -1", "temperature is -1.0, expected 0"),
        ("/temperature hot", "/temperature hot: expected a number"),
        ("/compare maybe", "/compare maybe: expected on or off"),
        ("/latents 3", "/latents 3: expected on or off"),
        ("/reset all", "/reset all: expected nothing"),
        ("/save", "/save: expected a file"),
        ("/load none.toml", "none.toml: no such file"),
        ("x" * 200, "context is full"),
    ],
)
def test_a_mistake_is_one_line_and_the_conversation_goes_on(say, session, line, told):
    say("Hi", "/steer 7=1")
    before = session.conversation.turns.copy(), session.steering, session.sampling, session.mode
    shown, complaint = say(line)
    assert shown == ""
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1
    assert told in complaint
    assert (session.conversation.turns, session.steering, session.sampling, session.mode) == before
    assert say("Hi again")[0]


def test_scale_does_not_take_maxima_and_changes_nothing(say, session):
    say("/steer 7=1max")
    assert "without max" in say("/mode scale")[1]
    assert (session.mode, session.steering) == ("add", SteeringSet((Edit(7, 1.0, unit="max"),)))


def test_ctrl_c_stops_the_answer_and_keeps_what_is_there(say, model, session):
    whole, passes = expected(model, ("user", "Hi")), []

    def interrupt(x):
        passes.append(x)
        if len(passes) == 4:
            signal.raise_signal(signal.SIGINT)

    with model.hooks({"0.resid_pre": interrupt}):
        shown, _ = say("Hi")
    assert shown == f"{whole[:3]}\n(stopped; the conversation goes on from here)\n"
    assert session.conversation.turns == [Message("user", "Hi"), Message("assistant", whole[:3])]
    assert say("Go")[0]


def test_an_answer_that_was_stopped_before_its_first_token_leaves_nothing(say, model, session):
    def interrupt(x):
        signal.raise_signal(signal.SIGINT)

    with model.hooks({"0.resid_pre": interrupt}):
        say("Hi")
    assert session.conversation.turns == []
