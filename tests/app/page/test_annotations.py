"""Notes of people: appended, never lost, apart from what machines said."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from monosem.app.page import annotations
from monosem.errors import RunError, SaeError


def test_the_last_note_counts_and_all_stay(tmp_path: Path) -> None:
    path = tmp_path / annotations.ANNOTATIONS
    assert annotations.read(path) == {}
    annotations.add(path, 3, " first ", None)
    annotations.add(path, 4, None, "wrong")
    last = annotations.add(path, 3, "second", "partly")
    assert annotations.read(path)[3] == last
    assert last.explanation == "second"
    assert [json.loads(line)["explanation"] for line in path.read_text().splitlines()] == ["first", None, "second"]


def test_a_torn_line_costs_nothing_but_itself(tmp_path: Path) -> None:
    path = tmp_path / annotations.ANNOTATIONS
    annotations.add(path, 3, "whole", None)
    with path.open("a") as file:
        file.write('{"latent": 3, "explana')
    annotations.add(path, 5, "behind", "right")
    found = annotations.read(path)
    assert (found[3].explanation, found[5].explanation) == ("whole", "behind")


@pytest.mark.parametrize(
    ("text", "rating", "says"),
    [
        (None, None, "nothing to keep"),
        ("  ", None, "nothing to keep"),
        ("x" * 3000, None, "3,000 characters"),
        ("x", "perfect", "rating 'perfect' is not known"),
    ],
)
def test_what_cannot_be_kept(tmp_path: Path, text: str | None, rating: str | None, says: str) -> None:
    with pytest.raises(SaeError, match=says):
        annotations.add(tmp_path / "a.jsonl", 1, text, rating)
    assert not (tmp_path / "a.jsonl").exists()


def test_no_place_to_write_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing was kept"):
        annotations.add(tmp_path / "nowhere" / "a.jsonl", 1, "x", None)


def test_two_processes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    code = (
        "import sys; from pathlib import Path; from monosem.app.page import annotations\n"
        "for latent in range(int(sys.argv[2]), int(sys.argv[2]) + 50):\n"
        "    annotations.add(Path(sys.argv[1]), latent, 'x' * 500, None)"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, str(path), first]) for first in ("0", "50")]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert sorted(annotations.read(path)) == list(range(100))
