"""Starting the page: mistakes are one line, and nothing heavy is loaded before it is needed."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from page_run import page_run

from monosem.app.page import serve
from monosem.app.page.library import Library
from monosem.errors import RunError


def test_a_port_in_use_is_one_line(tmp_path: Path, error_line: Callable[..., str]) -> None:
    run = page_run(tmp_path / "run")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"--port {port}: in use" in error_line("app", str(run.path), "--port", port)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["app", "nowhere"], "nowhere: not a run folder"),
        (["app"], "which run?"),
        (["app", "RUN", "--port", "99999"], "--port 99999"),
        (["app", "RUN", "--host", "203.0.113.77", "--port", "0"], "--host 203.0.113.77"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, error_line: Callable[..., str], argv: list[str], says: str) -> None:
    run = page_run(tmp_path / "run")
    assert says in error_line(*(str(run.path) if word == "RUN" else word for word in argv))


def test_an_empty_password_is_refused(
    tmp_path: Path, error_line: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = page_run(tmp_path / "run")
    monkeypatch.setenv(serve.PASSWORD, " ")
    assert "the password is empty" in error_line("app", str(run.path))
    monkeypatch.setattr("getpass.getpass", lambda _: "")
    assert "the password is empty" in error_line("app", str(run.path), "--password")


def test_the_password_comes_from_the_environment_or_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(serve.PASSWORD, raising=False)
    assert serve.password(ask=False) is None
    monkeypatch.setenv(serve.PASSWORD, "from outside")
    assert serve.password(ask=False) == "from outside"
    monkeypatch.setattr("getpass.getpass", lambda _: "typed")
    assert serve.password(ask=True) == "typed"


def test_a_view_needs_neither_torch_nor_gradio(tmp_path: Path) -> None:
    run = page_run(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path\n"
        "from monosem.app.page.library import Library\n"
        "from monosem.app.page.explore_views import card_view, hits_view\n"
        "from monosem.app.page.searching import Query\n"
        f"run = Library([Path({str(run.path)!r})]).run('run')\n"
        "assert 'Latent 3' in card_view(run, 3) and hits_view(run, Query('rope'), 9, None).latents\n"
        "assert not {'torch', 'gradio', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_runs_of_one_name_keep_apart(tmp_path: Path) -> None:
    first, second = page_run(tmp_path / "a" / "run").path, page_run(tmp_path / "b" / "run", seed=1).path
    library = Library([first, second, first])
    assert library.names == ["run", str(second)]
    with pytest.raises(RunError, match="no run 'other' on this page; there are run"):
        library.run("other")
