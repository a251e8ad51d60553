"""The Training tab: curves of chosen runs, drawn anew every few seconds while the tab is open and something changes."""

from typing import Any

import gradio as gr

from monosem.app.page.library import Library
from monosem.app.page.render import guide
from monosem.app.page.training_views import stamp, training_view
from monosem.app.page.wiring import QUIET

SECONDS = 3.0


class TrainingTab:
    """The tab's components and handlers."""

    def __init__(self, library: Library) -> None:
        self._library = library
        gr.HTML(guide("training"), apply_default_css=False)
        several = len(library.names) > 1
        self.runs = gr.CheckboxGroup(
            library.names, value=library.names[:1], label="Runs", visible=several or "hidden", elem_classes="ms-kind"
        )
        self.seen = gr.State(())
        self.view = gr.HTML(apply_default_css=False)
        self.timer = gr.Timer(SECONDS, active=False)
        shown = [self.view, self.seen]
        self.runs.change(self.draw, self.runs, shown, **QUIET)
        self.timer.tick(self.redraw, [self.runs, self.seen], shown, **QUIET)

    def open(self, names: list[str]) -> tuple[Any, ...]:
        """The tab is looked at: draw, and go on drawing."""
        return *self.draw(names), gr.Timer(active=True)

    def draw(self, names: list[str]) -> tuple[str, Any]:
        """The curves of these runs, and what they were drawn of."""
        runs = [self._library.run(name) for name in names]
        return training_view(runs), stamp(runs)

    def redraw(self, names: list[str], seen: Any) -> tuple[Any, Any]:
        """The same, where something has changed."""
        runs = [self._library.run(name) for name in names]
        return self.draw(names) if stamp(runs) != tuple(seen) else (gr.skip(), gr.skip())
