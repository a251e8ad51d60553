"""A desk writes, keeps a conversation, stops when told, and knows nothing of other desks."""

import pytest
from small_run import MAXIMUM, chatty_llama, small_run

from monosem.app.page.desk import LATENTS, Desk, Wish
from monosem.completion import Completer, SteeringSet
from monosem.errors import ModelError, SaeError
from monosem.lm.generate import Sampling
from monosem.steering import Edit

PLAIN = SteeringSet()
STEERED = SteeringSet((Edit(3, 2.0, unit="max"), Edit(4, 1.0, unit="max")))


@pytest.fixture(scope="module")
def completer(tmp_path_factory: pytest.TempPathFactory) -> Completer:
    return Completer(small_run(tmp_path_factory.mktemp("runs") / "run"), chatty_llama())


def wish(text: str = "abc", steering: SteeringSet = PLAIN, chat: bool = False, most: int = 12) -> Wish:
    return Wish(text, chat, None, steering, Sampling(most, temperature=0.9, seed=3))


def written(desk: Desk, completer: Completer, asked: Wish) -> list[str]:
    for _ in desk.write(completer, "run", asked):
        pass
    return [text.text for text in desk.exchanges[-1].texts]


def test_it_writes_what_complete_writes(completer: Completer) -> None:
    desk = Desk()
    sampling = Sampling(12, temperature=0.9, seed=3)
    expected = completer.complete(["abc"], STEERED.edits, sampling, compare=True, show_latents=LATENTS, perplexity=True)
    assert written(desk, completer, wish(steering=STEERED)) == [one.text for one in expected]
    texts = desk.exchanges[0].texts
    assert [text.tokens for text in texts] == [one.tokens for one in expected]
    assert [text.perplexity for text in texts] == [one.perplexity for one in expected]
    assert all(text.concept is not None for text in texts)
    assert not desk.writing


def test_a_steering_changes_the_steered_text_alone(completer: Completer) -> None:
    plain, mild = written(Desk(), completer, wish(steering=SteeringSet((Edit(3, 0.0, unit="max"),))))
    same, strong = written(Desk(), completer, wish(steering=SteeringSet((Edit(3, 30.0, unit="max"),))))
    assert plain == mild == same
    assert strong != plain


def test_texts_grow_token_by_token(completer: Completer) -> None:
    desk, lengths = Desk(), []
    for _ in desk.write(completer, "run", wish()):
        lengths.append(len(desk.exchanges[0].texts[0].tokens))
    assert lengths[0] == 0
    assert set(range(12)) <= set(lengths)


def test_stopping_ends_it_at_the_next_token(completer: Completer) -> None:
    desk = Desk()
    steps = desk.write(completer, "run", wish(most=100))
    for _ in range(20):
        next(steps)
    assert desk.writing
    desk.stop()
    assert len(list(steps)) <= 2
    (text,) = desk.exchanges[0].texts
    assert text.finish == "stopped"
    assert 0 < len(text.tokens) < 40


def test_a_newer_wish_ends_the_older(completer: Completer) -> None:
    desk = Desk()
    old = desk.write(completer, "run", wish(most=100))
    next(old)
    next(old)
    written(desk, completer, wish("xyz"))
    assert len(list(old)) <= 2
    assert [exchange.prompt for exchange in desk.exchanges] == ["xyz"]


def test_two_desks_that_write_in_turn_never_mix(completer: Completer) -> None:
    strong = SteeringSet((Edit(5, 20.0, unit="max"),))
    alone = [written(Desk(), completer, wish(steering=steering)) for steering in (STEERED, strong)]
    desks = Desk(), Desk()
    running = [
        desk.write(completer, "run", wish(steering=one)) for desk, one in zip(desks, (STEERED, strong), strict=True)
    ]
    while running:
        for steps in list(running):
            if next(steps, "end") == "end":
                running.remove(steps)
    assert [[text.text for text in desk.exchanges[0].texts] for desk in desks] == alone
    assert alone[0][0] == alone[1][0]
    assert alone[0][1] != alone[1][1]


def test_a_chat_goes_on_with_the_steered_answer(completer: Completer) -> None:
    desk = Desk()
    first = written(desk, completer, wish("hi", STEERED, chat=True))
    written(desk, completer, wish("more", STEERED, chat=True))
    assert [exchange.prompt for exchange in desk.exchanges] == ["hi", "more"]
    assert desk._conversation is not None
    assert [turn.content for turn in desk._conversation.turns][:2] == ["hi", first[1]]
    desk.clear()
    assert desk.exchanges == []
    written(desk, completer, wish("anew", chat=True))
    assert [exchange.prompt for exchange in desk.exchanges] == ["anew"]


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (wish(" \n"), "the prompt is empty"),
        (wish("a" * 500), "the prompt has 500 tokens"),
        (wish("b" * 500, chat=True), "the context is full"),
        (wish(steering=SteeringSet((Edit(10**6),))), "out of range"),
    ],
)
def test_a_mistake_changes_nothing(completer: Completer, asked: Wish, error: str) -> None:
    desk = Desk()
    before = written(desk, completer, wish())
    with pytest.raises((ModelError, SaeError), match=error):
        written(desk, completer, asked)
    assert [text.text for text in desk.exchanges[0].texts] == before


def test_concept_is_in_multiples_of_the_maximum(completer: Completer) -> None:
    desk = Desk()
    written(desk, completer, wish(steering=STEERED))
    text = desk.exchanges[0].texts[1]
    codes, within = completer.codes([*text.prompt, *(token.id for token in text.tokens)])
    dense = codes.dense() * within[:, None]
    expected = dense[len(text.prompt) :, [3, 4]].mean().item() / MAXIMUM
    assert text.concept == pytest.approx(expected, abs=1e-6)
