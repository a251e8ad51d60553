"""A run with examples whose latents are explained by the batch server; and what must hold when it is done."""

import json
import shutil
from pathlib import Path
from typing import Any

from batch_server import BatchServer, meaning

from monosem.interpret import explain
from monosem.interpret.asking import Asking
from monosem.interpret.providers.patience import Patience
from monosem.interpret.providers.post import Consent, Post
from monosem.run import Run, Stage

MODEL = "test-model"
INPUT_USD, OUTPUT_USD = 2.0, 10.0
OPEN: list[Post] = []
"""What the fixture `server` closes after a test."""
STAGES = ("sentences", "activations", "batches", "sae", "examples")


def patience(waits: list[float] | None = None) -> Patience:
    """One that hardly waits; `waits` takes down how long it was asked to."""
    return Patience(
        tries=5, first=0.001, most=0.002, poll=0.0, settle=0.0, sleep=(waits if waits is not None else []).append
    )


def asked_run(made: Path, folder: Path, server: BatchServer, provider: str, **keys: Any) -> Run:
    """A run below `folder` that shares the finished stages of `made`, and asks `provider` at the server."""
    run = Run.open(made)
    prices = folder / "prices.toml"
    price = f"{MODEL} = {{ input = {INPUT_USD}, output = {OUTPUT_USD} }}\n"
    prices.write_text("".join(f"[{name}.models]\n{price}" for name in ("anthropic", "openai", "compatible")))
    base_url = server.url if provider == "anthropic" else f"{server.url}/v1"
    asked = {"provider": provider, "model": MODEL, "base_url": base_url, "prices": str(prices), "examples": 5}
    part = run.recipe.explain.model_copy(update={**asked, "poll_seconds": 0.01, **keys})
    copy = Run(folder / "run", run.recipe.model_copy(update={"explain": part}))
    copy.path.mkdir()
    for stage in STAGES:
        (copy.path / stage).symlink_to(made / stage)
    copy.save_recipe()
    return copy


def asking(run: Run, consent: Consent | None = None, waits: list[float] | None = None) -> Asking:
    found = Asking(run, explain.open_stage(run), consent or Consent(send=True), patience(waits))
    OPEN.append(found.post)
    return found


def explained(run: Run, consent: Consent | None = None) -> Stage:
    """All steps."""
    found = asking(run, consent)
    found.finish()
    return found.write()


def rows(run: Run) -> list[dict[str, Any]]:
    text = (run.folder("explanations") / "explanations.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def check_done(run: Run, server: BatchServer, unexplained: set[int] | None = None) -> list[dict[str, Any]]:
    """Every live latent is explained but those named; nothing was paid twice; the cost is what the server counted."""
    found = rows(run)
    manifest = json.loads((run.folder("explanations") / "manifest.json").read_text())
    assert manifest["complete"]
    for row in found:
        asked = "request" in row["provenance"]
        if asked and row["latent"] not in (unexplained or set()):
            assert row["explanation"] == meaning(row["provenance"]["request"]), row
            assert row["certainty"] == 0.75
        else:
            assert row["explanation"] is None
            assert row["reason"], row
    assert all(times == 1 for times in server.billed.values()), server.billed
    counts = manifest["counts"]
    assert counts["usd"] == round((server.input_tokens * INPUT_USD + server.output_tokens * OUTPUT_USD) / 1e6, 6)
    assert counts.get("input_tokens", 0) == server.input_tokens
    assert counts.get("output_tokens", 0) == server.output_tokens
    return found


def latent_of(id_: str) -> int:
    return int(id_.split("-L")[1].split("-")[0])


def attempt_of(id_: str) -> int:
    return int(id_.rsplit("-a", 1)[1])


def forget(run: Run) -> None:
    """Take the explanations away, to ask anew."""
    shutil.rmtree(run.folder("explanations"))
