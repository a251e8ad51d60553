"""The tab where the model writes, plain beside steered. Wires `desk` and views to Gradio's events."""

import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from monosem.app.page.desk import Desk, Wish
from monosem.app.page.library import Library
from monosem.app.page.playground_views import Steered, steering_view, texts_view
from monosem.app.page.render import guide, message
from monosem.app.page.searching import Query
from monosem.app.page.token_views import ranking_view
from monosem.app.page.wiring import QUIET, check_text
from monosem.errors import MonosemError, RecipeError, SaeError

REDRAWS = 10  # a second, at most
MOST_NEW = 1024
WRITERS = 8  # browsers that write at once; others wait
HINTS = {"Text": "I think that", "Chat": "What is the capital of France?"}
KEPT, LOST = "stays in the model", "is taken away (the SAE's reconstruction replaces the activation)"
EDITS = "(...all) => [...all.slice(0, -1), monosem.edits()]"


class Desks:
    """The desk of every browser, by Gradio's name for its session."""

    def __init__(self) -> None:
        self._desks: dict[str, Desk] = {}
        self._lock = threading.Lock()

    def of(self, request: gr.Request) -> Desk:
        """The browser's desk."""
        with self._lock:
            return self._desks.setdefault(request.session_hash or "", Desk())

    def close(self, request: gr.Request) -> None:
        """The page was closed: what it writes ends."""
        with self._lock:
            desk = self._desks.pop(request.session_hash or "", None)
        if desk is not None:
            desk.stop()

    @property
    def writing(self) -> int:
        """How many browsers write."""
        return sum(desk.writing for desk in self._desks.values())


class PlaygroundTab:
    """The tab's components and handlers."""

    def __init__(self, library: Library, run: gr.Dropdown) -> None:
        self._library, self._run = library, run
        self.desks = Desks()
        self._versions = itertools.count(1)
        tokens = "monosem.tokens(element, trigger)"
        gr.HTML(guide("playground"), apply_default_css=False)
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                self.kind = gr.Radio([*HINTS], value="Text", label="The model", elem_classes="ms-kind")
                self.system = gr.Textbox(
                    label="System message", placeholder="the model's own", visible=False, max_lines=4
                )
                self.prompt = gr.Textbox(
                    label="Prompt", lines=3, max_lines=10, placeholder=HINTS["Text"], elem_id="ms-prompt"
                )
                with gr.Row(elem_classes="ms-acts"):
                    self.write = gr.Button("Write", variant="primary", min_width=90)
                    self.stop = gr.Button("Stop", min_width=90)
                    self.clear = gr.Button("Clear", min_width=90)
                self.said = gr.HTML(apply_default_css=False)
                self.texts = gr.HTML(js_on_load=tokens, apply_default_css=False, elem_id="ms-texts")
                self.ranking = gr.HTML(js_on_load=tokens, apply_default_css=False)
            with gr.Column(scale=2, min_width=320):
                with gr.Row(elem_classes="ms-add"):
                    self.wanted = gr.Textbox(
                        label="Steer a latent", placeholder="number or words", max_lines=1, scale=3
                    )
                    self.add = gr.Button("Add", min_width=60, scale=1)
                self.steering = gr.HTML(
                    steering_view([], library.first, 0),
                    js_on_load="monosem.steering(element, trigger)",
                    apply_default_css=False,
                    elem_id="ms-steering",
                )
                self.told = gr.HTML(apply_default_css=False)
                self.error = gr.Radio([KEPT, LOST], value=KEPT, label="What the SAE cannot rebuild")
                with gr.Row():
                    self.save = gr.Button("Save steering", size="sm", min_width=100)
                    self.load = gr.UploadButton("Load steering", size="sm", file_types=[".toml"], min_width=100)
                self.toml = gr.Textbox(visible="hidden")
                self.temperature = gr.Slider(0, 2, 0.6, step=0.05, label="Temperature, 0: greedy", buttons=[])
                self.top_p = gr.Slider(0.05, 1, 0.9, step=0.05, label="Top-p", buttons=[])
                self.most = gr.Slider(1, MOST_NEW, 60, step=1, label="New tokens, at most", buttons=[])
                self.seed = gr.Number(0, label="Seed", precision=0)
        self.edits = gr.Textbox(visible="hidden")
        self._wire()

    def _wire(self) -> None:
        texts = [self.said, self.texts, self.ranking]
        wish = [self._run, self.kind, self.system, self.prompt, self.temperature, self.top_p, self.most, self.seed]
        gr.on(
            [self.write.click, self.prompt.submit],
            self.compose,
            [*wish, self.error, self.edits],
            [*texts, self.prompt],
            js=EDITS,
            concurrency_limit=WRITERS,
            trigger_mode="multiple",
            show_progress="hidden",
            api_visibility="private",
        )
        self.stop.click(self.halt, None, None, **QUIET)
        self.clear.click(self.forget, None, texts, **QUIET)
        self.kind.change(self.turn, self.kind, [self.system, self.prompt], **QUIET)
        self.texts.select(self.rank, None, self.ranking, **QUIET)
        panel, edits = [self.steering, self.told], [self._run, self.edits]
        added = [*panel, self.wanted]
        gr.on([self.add.click, self.wanted.submit], self.add_one, [self.wanted, *edits], added, js=EDITS, **QUIET)
        self.load.upload(self.take_file, [self._run, self.load], [*panel, self.error], **QUIET)
        saved = [self.toml, self.told]
        self.save.click(self.spell, [self._run, self.error, self.edits], saved, js=EDITS, **QUIET).then(
            None, self.toml, None, js="(text) => monosem.download('steering.toml', text)"
        )

    def compose(
        self,
        name: str,
        kind: str,
        system: str,
        prompt: str,
        temperature: float,
        top_p: float,
        most: int,
        seed: int | None,
        error: str,
        edits: str,
        request: gr.Request,
    ) -> Iterator[tuple[str, str, Any, Any]]:
        """Write; the texts grow as they come. What is said in a chat leaves the prompt once it is being answered."""
        desk = self.desks.of(request)
        said = "" if kind == "Chat" else gr.skip()
        try:
            check_text(prompt, "the prompt")
            if not self._library.loaded(name):
                yield message("loading the model …"), texts_view(desk), gr.skip(), gr.skip()
            completer = self._library.completer(name)
            from monosem.completion import SteeringSet
            from monosem.lm.generate import Sampling

            steering = SteeringSet(tuple(_edits(self._steered(name, edits))), error == LOST)
            sampling = Sampling(int(most), float(temperature), float(top_p), int(seed or 0))
            wish = Wish(prompt or "", kind == "Chat", system or None, steering, sampling)
            drawn = 0.0
            for _ in desk.write(completer, name, wish):
                if time.monotonic() - drawn > 1 / REDRAWS:
                    yield "", texts_view(desk), "", said
                    drawn, said = time.monotonic(), gr.skip()
        except MonosemError as error_:
            yield message(str(error_), "error"), texts_view(desk), gr.skip(), gr.skip()
            return
        yield "", texts_view(desk), gr.skip(), gr.skip()

    def turn(self, kind: str) -> tuple[Any, Any]:
        """From text to chat, or back: only a chat has a system message."""
        return gr.Textbox(visible=kind == "Chat"), gr.Textbox(placeholder=HINTS[kind])

    def halt(self, request: gr.Request) -> None:
        """End what is being written."""
        self.desks.of(request).stop()

    def forget(self, request: gr.Request) -> tuple[str, str, str]:
        """Begin anew."""
        desk = self.desks.of(request)
        desk.clear()
        return "", texts_view(desk), ""

    def rank(self, event: gr.EventData, request: gr.Request) -> str:
        """The latents at the token that was chosen."""
        desk = self.desks.of(request)
        exchange, text, token = map(int, event._data["place"].split("-"))
        return ranking_view(desk.exchanges[exchange].texts[text].tokens[token], desk.run)

    def steer(self, wanted: str, name: str, edits: str) -> tuple[Any, str]:
        """One more latent, by its number or by the best match of some words."""
        try:
            steered = self._steered(name, edits)
            latent = self._found(name, wanted or "")
            if all(one.latent != latent for one in steered):
                steered.append(self._one(name, latent, 1.0, "add"))
        except MonosemError as error:
            return gr.skip(), message(str(error), "error")
        return self._panel(steered, name), ""

    def steer_none(self, name: str) -> tuple[str, str]:
        """An empty panel: latents of one run are nothing in another."""
        return self._panel([], name), ""

    def add_one(self, wanted: str, name: str, edits: str) -> tuple[Any, str, str]:
        """The same from the field where it is written, which is free again unless there was a mistake."""
        panel, said = self.steer(wanted, name, edits)
        return panel, said, wanted if said else ""

    def take_file(self, name: str, path: str) -> tuple[Any, str, Any]:
        """The steering of a file."""
        from monosem.completion import SteeringSet

        try:
            found = SteeringSet.load(Path(path))
            steered = [self._of_edit(name, edit) for edit in found.edits]
        except MonosemError as error:
            told_ = str(error).removeprefix(f"{path}: ")
            return gr.skip(), message(f"{Path(path).name}: {told_}", "error"), gr.skip()
        return (
            self._panel(steered, name),
            message(f"{Path(path).name}: {len(steered)} latents"),
            LOST if found.replace else KEPT,
        )

    def spell(self, name: str, error: str, edits: str) -> tuple[str, str]:
        """The steering as the text of a file."""
        from monosem.completion import SteeringSet

        try:
            steering = SteeringSet(tuple(_edits(self._steered(name, edits))), error == LOST)
        except MonosemError as error_:
            return "", message(str(error_), "error")
        return steering.toml(), message("steering.toml is a download; monosem complete and chat take it up")

    def _panel(self, steered: Sequence[Steered], name: str) -> str:
        return steering_view(steered, name, next(self._versions))

    def _steered(self, name: str, edits: str) -> list[Steered]:
        """The lines of a panel, as a browser tells them."""
        try:
            rows = json.loads(edits or "[]")
            return [self._one(name, int(row["latent"]), float(row["value"]), str(row["mode"])) for row in rows]
        except (ValueError, KeyError, TypeError):
            raise RecipeError("the steering panel sent something that is no list of edits; reload the page") from None

    def _one(self, name: str, latent: int, value: float, mode: str) -> Steered:
        files = self._library.run(name).files
        files.check(latent)
        maximum = float(files.figures().max[latent])
        if not maximum > 0:
            raise SaeError(f"latent {latent} never fires on this corpus: there is no maximum to steer it by")
        return Steered(latent, value, mode, files.text(latent), maximum)

    def _of_edit(self, name: str, edit: Any) -> Steered:
        one = self._one(name, edit.latent, edit.value, edit.mode)
        in_maxima = edit.value / one.maximum if edit.unit == "raw" and edit.mode != "scale" else edit.value
        return one._replace(value=round(in_maxima, 6))

    def _found(self, name: str, wanted: str) -> int:
        if wanted.strip().isdecimal():
            return int(wanted)
        if not wanted.strip():
            raise RecipeError("say which latent to steer: its number, or words of its explanation")
        run = self._library.run(name)
        found = run.searcher.find(Query(wanted), run.files.scores.of_all(run.files.figures().n)).latents
        if not len(found):
            raise RecipeError(f"no latent is found by {wanted!r}")
        return int(found[0])


def _edits(steered: Sequence[Steered]) -> list[Any]:
    from monosem.steering import Edit

    return [
        Edit(one.latent, one.value, one.mode, "raw" if one.mode in ("scale", "ablate") else "max")  # type: ignore[arg-type]
        for one in steered
    ]
