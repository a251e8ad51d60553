"""The runs that a page shows, and the models behind them.

A run's files are read when they are asked for; its SAE and its language model are loaded once, in the background, when
somebody first needs them. Runs of one language model share it.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from monosem.app.page.latents import LatentFiles
from monosem.app.page.searching import Searcher
from monosem.errors import MonosemError, RunError
from monosem.run import Run

if TYPE_CHECKING:  # torch, which nothing but a model needs
    from monosem.completion import Completer
    from monosem.lm.protocol import LanguageModel


class OpenRun:
    """One run of the page."""

    def __init__(self, name: str, run: Run) -> None:
        self.name, self.run = name, run
        self.files = LatentFiles(run.path)
        self.searcher = Searcher(self.files)

    def warm(self) -> None:
        """Read what the first card and the first search need; what is missing is said when it is asked for."""
        try:
            self.files.card(0, 1)
            self.searcher.warm()
        except MonosemError:
            return


class Library:
    """The runs of a page by name.

    Raises:
        RunError: a folder is not a run.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._runs: dict[str, OpenRun] = {}
        for folder in folders:
            run, name = Run.open(folder), folder.resolve().name
            if name in self._runs and self._runs[name].run.path.resolve() != folder.resolve():
                name = str(folder)
            self._runs[name] = OpenRun(name, run)
        self._models: dict[str, LanguageModel] = {}
        self._completers: dict[str, Completer] = {}
        self._loading = threading.Lock()

    @property
    def names(self) -> list[str]:
        return list(self._runs)

    @property
    def first(self) -> str:
        return self.names[0]

    def run(self, name: str) -> OpenRun:
        """The run of a name.

        Raises:
            RunError: there is none; a link may ask for any.
        """
        if name not in self._runs:
            raise RunError(f"no run {name!r} on this page; there are {', '.join(self.names)}")
        return self._runs[name]

    def loaded(self, name: str) -> bool:
        """Whether a run's model is in memory."""
        return name in self._completers

    def completer(self, name: str) -> "Completer":
        """The run's completer with its language model in memory; the first call loads it, others wait.

        Raises:
            RunError: there is no such run, or it has no trained SAE.
            MonosemError: its model cannot be loaded.
        """
        run = self.run(name).run
        with self._loading:
            if name not in self._completers:
                from monosem.completion import Completer

                key = run.recipe.model.model_dump_json()
                completer = Completer(run, self._models.get(key))
                self._models[key] = completer.model
                self._completers[name] = completer
            return self._completers[name]

    def warm(self) -> None:
        """Read in the background what first clicks need."""

        def work() -> None:
            for run in self._runs.values():
                run.warm()

        threading.Thread(target=work, name="warm", daemon=True).start()
