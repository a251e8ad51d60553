"""100,000 requests are planned within the limits of both batch interfaces, in bounded time and memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "plan_requests.py"
LIMITS = {"anthropic": (100_000, 256_000_000), "openai": (50_000, 200_000_000)}


@pytest.mark.slow
@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_100_000_requests(provider: str) -> None:
    command = [sys.executable, str(BENCHMARK), "--provider", provider]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(done.stdout.splitlines()[-1])
    count, size = LIMITS[provider]
    assert found["requests"] == 100_000
    assert found["cpu_seconds"] < 60
    assert found["peak_mb"] < 1000
    assert sum(chunk[0] for chunk in found["chunks"]) == 100_000
    assert all(requests <= count and bytes_ <= size for requests, bytes_ in found["chunks"])
    assert len(found["chunks"]) <= found["bytes"] // size + 100_000 // count + 1
