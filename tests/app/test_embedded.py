"""The embedded model completes and chats with an SAE inside; on a pseudo-terminal too."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pseudo_terminal import session
from rich.console import Console

from monosem.app.chat import chat
from monosem.app.commands import Session
from monosem.completion import Completer, Conversation, Ended, SteeringSet, Wrote
from monosem.lm.checkpoint import load_model
from monosem.lm.generate import Sampling
from monosem.recipe import Recipe
from monosem.run import Run
from monosem.sae import files
from monosem.sae.autoencoder import Autoencoder, SaeConfig

pytestmark = pytest.mark.model

HOOK_POINT, N = "20.resid_post", 64


@pytest.fixture(scope="module")
def embedded_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder on the embedded model, with an untrained SAE."""
    recipe = Recipe.model_validate(
        {"model": {"source": "smollm2-135m-instruct", "dtype": "float32"}, "capture": {"hook_points": [HOOK_POINT]}}
    )
    run = Run(tmp_path_factory.mktemp("runs") / "embedded", recipe)
    run.path.mkdir()
    run.save_recipe()
    config = SaeConfig(576, N, 4, normalisation="none", hook_point=HOOK_POINT)
    files.save(Autoencoder(config, torch.Generator().manual_seed(0)), run.folder("sae") / "final")
    run.folder("examples").mkdir()
    table = pa.table({"latent": pa.array(range(N), pa.int32()), "max": pa.array([20.0] * N, pa.float32())})
    pq.write_table(table, run.folder("examples") / "latents.parquet")
    return run.path


@pytest.fixture(scope="module")
def completer(embedded_run: Path, embedded_model_path: Path) -> Completer:
    return Completer(Run.open(embedded_run), load_model(embedded_model_path, device="cpu"))


def test_a_batch_says_what_each_prompt_says_alone(completer: Completer) -> None:
    prompts = ["The capital of France is", "Water boils at", "日本の首都は"]
    warm = Sampling(max_new_tokens=12, temperature=0.8, top_p=0.9)
    together = completer.complete(prompts, [], warm, compare=True, show_latents=2)
    for place, prompt in enumerate(prompts):
        (alone,) = completer.complete([prompt], [], warm)
        assert alone.text == together[2 * place].text == together[2 * place + 1].text
    assert len({one.text for one in together}) == 3


def test_characters_of_several_tokens_are_told_whole(completer: Completer) -> None:
    events = list(completer.stream(["日本の首都は東京です。日本の首都は"], [], Sampling(max_new_tokens=12)))
    pieces = [event.text for event in events if isinstance(event, Wrote)]
    completion = next(event.completion for event in events if isinstance(event, Ended))
    ids = [token.id for token in completion.tokens]
    assert completion.text == completer.model.tokenizer.decode(ids)
    assert "" in pieces
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_conversation_is_remembered_and_reset(completer: Completer, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(*lines: str) -> list[str]:
        console = Console(file=io.StringIO(), highlight=False, width=80)
        talk = Conversation(completer.model.tokenizer, completer.model.config.context_length)
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
        chat(Session(completer, talk, console, Sampling(max_new_tokens=24), SteeringSet()))
        return [turn.content for turn in talk.turns if turn.role == "assistant"]

    question = "What is my name?"
    (fresh,) = answers(question)
    (_, remembered) = answers("My name is Ada.", question)
    (after_reset,) = answers("My name is Ada.", "/reset", question)
    assert remembered != fresh == after_reset
    (steered,) = answers("/steer 3=9max", question)
    assert steered != fresh


def test_a_chat_on_a_terminal_streams_and_ctrl_c_stops_the_answer_alone(embedded_run: Path) -> None:
    with session(["chat", str(embedded_run), "--max-new-tokens", "400", "--temperature", "0"]) as (process, screen):
        screen.wait_for("> ")
        screen.type("Tell me a very long story about a king.\n")
        screen.wait_for("king.\r\n")
        while len(screen.seen.split("king.\r\n", 1)[1].split()) < 6:
            assert process.poll() is None
            screen.read(0.1)
        screen.type("\x03")
        screen.wait_for("(stopped")
        assert process.poll() is None
        screen.type("/quit\n")
        process.wait(20)
    assert process.returncode == 0
