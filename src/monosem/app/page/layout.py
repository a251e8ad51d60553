"""The page as one Gradio app: head, run, and a tab for each thing that one does with a run."""

from typing import Any

import gradio as gr

from monosem.app.page.explore import ExploreTab, opened
from monosem.app.page.library import Library
from monosem.app.page.playground import EDITS, PlaygroundTab
from monosem.app.page.reader import ReaderTab
from monosem.app.page.render import message, render
from monosem.app.page.training import TrainingTab
from monosem.app.page.wiring import QUIET
from monosem.errors import MonosemError


def build(library: Library) -> gr.Blocks:
    """The page of these runs."""
    several = len(library.names) > 1
    with gr.Blocks(title="monosem", analytics_enabled=False) as page:
        with gr.Row(elem_classes="ms-top"):
            head = gr.HTML(_head(library, library.first), apply_default_css=False)
            run = gr.Dropdown(
                library.names,
                value=library.first,
                label="Run",
                show_label=False,
                filterable=False,
                visible=several or "hidden",
                elem_classes="ms-run",
            )
        with gr.Tabs() as tabs:
            with gr.Tab("Explore", id="explore") as explore_tab:
                explore = ExploreTab(library, run)
            with gr.Tab("Test text", id="text") as text_tab:
                reader = ReaderTab(library, run)
            with gr.Tab("Playground", id="playground") as playground_tab:
                playground = PlaygroundTab(library, run)
            with gr.Tab("Training", id="training") as training_tab:
                training = TrainingTab(library)
        begins = [run, head, training.runs, explore.list, explore.found, *explore.shown]

        def heads(name: str) -> tuple[str, list[str]]:
            return _head(library, name), [name]

        def begin(request: gr.Request) -> tuple[Any, ...]:
            asked = dict(request.query_params)
            name = asked.get("run", library.first)
            try:
                library.run(name)
            except MonosemError as error:
                listed, found, _, *rest = explore.begin(library.first, None)
                line = message(str(error), "error")
                return library.first, *heads(library.first), listed, found, line, *rest
            return name, *heads(name), *explore.begin(name, asked.get("latent"))

        def change(name: str) -> tuple[Any, ...]:
            return *heads(name), *explore.begin(name, None), *playground.steer_none(name)

        def visit(event: gr.EventData, name: str) -> tuple[Any, ...]:
            return gr.Tabs(selected="explore"), *explore.follow(event, name)

        def take(latent: int | None, name: str, edits: str) -> tuple[Any, ...]:
            return gr.Tabs(selected="playground"), *playground.steer("" if latent is None else str(latent), name, edits)

        for linked in (reader.ranking, reader.summary, playground.ranking, playground.steering):
            linked.click(visit, [run], [tabs, *explore.shown], **QUIET)
        panel = [playground.steering, playground.told]
        explore.steer.click(take, [explore.latent, run, playground.edits], [tabs, *panel], js=EDITS, **QUIET)
        drawn = [training.view, training.seen, training.timer]
        training_tab.select(training.open, training.runs, drawn, **QUIET)
        for other in (explore_tab, text_tab, playground_tab):
            other.select(lambda: gr.Timer(active=False), None, training.timer, **QUIET)
        page.unload(playground.desks.close)
        page.load(begin, None, begins, **QUIET)
        run.input(change, run, [*begins[1:], *panel], **QUIET)
    return page


def _head(library: Library, name: str) -> str:
    return render("head", name=name, about=opened(library.run(name)))
