"""Metrics on disk and progress as lines."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from monosem import progress
from monosem.progress import JsonlSink, Sinks, read_metrics


def test_a_resumed_metrics_file_is_the_same_bytes_as_an_uninterrupted_one(tmp_path: Path) -> None:
    def write(path: Path, steps: range, resume: int) -> None:
        sink = JsonlSink(path, resume)
        for step in steps:
            sink.log(step, {"loss": 1 / step, "dead": step})
        sink.close()

    write(tmp_path / "whole", range(1, 8), 0)
    write(tmp_path / "parts", range(1, 6), 0)
    with (tmp_path / "parts").open("a") as file:
        file.write('{"step": 6, "lo')
    write(tmp_path / "parts", range(4, 8), 3)
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_new_run_starts_a_new_metrics_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 5, "loss": 1.0}) + "\n")
    JsonlSink(path).close()
    assert read_metrics(path) == []


def test_several_sinks_take_the_same_values(tmp_path: Path) -> None:
    sinks = Sinks([JsonlSink(tmp_path / "a"), JsonlSink(tmp_path / "b")])
    sinks.log(3, {"loss": 0.5})
    sinks.close()
    assert read_metrics(tmp_path / "a") == read_metrics(tmp_path / "b") == [{"step": 3, "loss": 0.5}]


def test_progress_without_a_terminal_is_lines_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "console", progress.Console(stderr=True, force_terminal=False, width=200))
    with progress.progress("capture", total=100, unit="tokens", done=20) as advance:
        advance(30)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "capture: 50 % (50 of 100 tokens)" in shown.err
    assert "s left" in shown.err


def test_wandb_offline_writes_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    sink = progress.WandbSink(tmp_path, "a-run", {"seed": 0}, "offline")
    sink.log(1, {"loss": 0.5})
    sink.close()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_wandb_offline_keeps_pictures_and_without_it_none_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    picture = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(picture, "png")
    drawn: list[int] = []

    def draw() -> dict[str, bytes]:
        drawn.append(1)
        return {"heat-map": picture.getvalue()}

    plain = Sinks([JsonlSink(tmp_path / "a")])
    plain.pictures(3, draw)
    plain.close()
    assert not drawn
    both = Sinks([JsonlSink(tmp_path / "b"), progress.WandbSink(tmp_path, "a-run", {}, "offline")])
    both.pictures(3, draw)
    both.close()
    assert drawn == [1]
    (kept,) = tmp_path.glob("wandb/offline-run-*/files/media/images/heat-map_*.png")
    with Image.open(kept) as image:
        assert image.size == (4, 3)


def test_wandb_without_a_login_goes_on_offline_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers there
    sink = progress.WandbSink(tmp_path, "a-run", {}, "online")
    sink.log(1, {"loss": 0.5})
    sink.close()
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "wandb: " in line)
    assert line.endswith("going on offline, send it later with: wandb sync")
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
