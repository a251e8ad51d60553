"""Meta's own code as the referee: `llama_models` in an environment of its own, asked through files.

The scripts beside this file run there (`make referee`, or the python that `MONOSEM_REFEREE` names); they know nothing
of monosem, and nothing of theirs is imported here.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

_HERE = Path(__file__).parent


def ask(script: str, job: dict[str, Any], folder: Path) -> Path:
    """Run `script` of this folder on `job`; returns the folder where it left its results."""
    python = Path(os.environ.get("MONOSEM_REFEREE") or _HERE.parents[2] / ".venv-referee/bin/python")
    if not python.is_file():
        pytest.fail(f"{python} is missing; `make referee` builds it", pytrace=False)
    results = folder / "referee"
    results.mkdir(exist_ok=True)
    (results / "job.json").write_text(json.dumps(job))
    done = subprocess.run([python, _HERE / script, results], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return results
