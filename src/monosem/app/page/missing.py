"""Which command makes what a run does not have yet."""

from pathlib import Path

from monosem.pipeline import PIPELINE


def command(run_folder: Path, stage: str) -> str:
    """The command that makes a stage, named by its folder; the whole run's for one that has no verb of its own."""
    verb = next((step.verb for step in PIPELINE if step.folder == stage), "run")
    return f"monosem {verb} {run_folder}"
