"""The run folder: found by path or name, and held by one start at a time."""

import contextlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from torchrun import script, start

from monosem import recipe
from monosem.errors import RunError
from monosem.recipe import Recipe, SaeRecipe
from monosem.run import Run, resolve


def test_two_processes_cannot_hold_one_run(tmp_path: Path) -> None:
    code = textwrap.dedent(
        f"""
        from pathlib import Path
        from monosem.recipe import Recipe
        from monosem.run import Run
        with Run(Path({str(tmp_path)!r}), Recipe()).lock():
            print("held", flush=True)
            input()
        """
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"in use by process {holder.pid}"), Run(tmp_path, Recipe()).lock():
            pass
        holder.communicate("go\n")
    with Run(tmp_path, Recipe()).lock():
        pass


def test_a_run_is_found_by_path_or_name(tmp_path: Path) -> None:
    run = Run(tmp_path / "demo", Recipe(sae=SaeRecipe(n=4096, k=4)))
    with run.lock():
        run.save_recipe()
    assert resolve("demo", tmp_path) == tmp_path / "demo"
    assert resolve(str(tmp_path / "demo"), Path("elsewhere")) == tmp_path / "demo"
    assert resolve("none", tmp_path) is None
    assert Run.open(tmp_path / "demo").recipe == recipe.load(tmp_path / "demo" / "recipe.toml") == run.recipe
    with pytest.raises(RunError, match="not a run folder"):
        Run.open(tmp_path)


def test_a_rank_that_outlives_the_others_keeps_the_folder(tmp_path: Path) -> None:
    hold = f"""
        from pathlib import Path
        from monosem.recipe import Recipe
        from monosem.run import Run
        with Run(Path({str(tmp_path)!r}), Recipe(), ranks).lock():
            print("held", flush=True)
            if ranks.first:
                os._exit(0)
            input()
        """
    processes = start(script(hold), world=2)
    with contextlib.ExitStack() as ended:
        for process in processes:
            ended.enter_context(process)
            ended.callback(process.kill)
        assert [process.stdout and process.stdout.readline() for process in processes] == ["held\n", "held\n"]
        processes[0].wait()
        with pytest.raises(RunError, match=f"in use by process {processes[0].pid} on"), Run(tmp_path, Recipe()).lock():
            pass
        processes[1].kill()
        processes[1].wait()
        with Run(tmp_path, Recipe()).lock():
            pass
