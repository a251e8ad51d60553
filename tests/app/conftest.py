"""A run folder around the small random model."""

from pathlib import Path

import pytest
from small_run import small_run

from monosem.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return small_run(tmp_path / "run")
