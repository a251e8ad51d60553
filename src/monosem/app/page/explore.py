"""The Explore tab: search and list on one side, the card of a latent on the other. Wires views to Gradio's events."""

import functools
import random
from typing import Any, NamedTuple

import gradio as gr

from monosem.app.page import annotations
from monosem.app.page.explore_views import ALL, card_view, hits_view
from monosem.app.page.library import Library, OpenRun
from monosem.app.page.render import guide, message
from monosem.app.page.searching import ORDERS, Query
from monosem.app.page.wiring import QUIET, told
from monosem.errors import MonosemError, RunError

LISTED = 60
ANY = "any share"
DENSITIES = {
    ANY: (0.0, 1.0),
    "below 0.01 %": (0.0, 1e-4),
    "0.01 to 0.1 %": (1e-4, 1e-3),
    "0.1 to 1 %": (1e-3, 1e-2),
    "1 to 10 %": (1e-2, 0.1),
    "above 10 %": (0.1, 1.0),
}
RATINGS = {"right": "right", "partly right": "partly", "wrong": "wrong"}


class Shown(NamedTuple):
    """What a browser looks at: the outputs of every handler that changes the card."""

    card: str
    latent: int | None
    note: Any
    rating: Any
    told: str


class ExploreTab:
    """The tab's components and handlers."""

    def __init__(self, library: Library, run: gr.Dropdown) -> None:
        self._library, self._run = library, run
        self.latent = gr.State(None)
        self.found = gr.State([])
        gr.HTML(guide("explore"), apply_default_css=False)
        with gr.Row():
            with gr.Column(scale=2, min_width=320, elem_classes="ms-side"):
                self.words = gr.Textbox(label="Search", placeholder="words, or a latent's number", max_lines=1)
                with gr.Row():
                    orders = [(label, key) for key, label in ORDERS.items()]
                    narrow: dict[str, Any] = {"min_width": 140, "filterable": False}
                    self.order = gr.Dropdown(orders, value="best", label="Order", **narrow)
                    self.density = gr.Dropdown([*DENSITIES], value=ANY, label="Fires on", **narrow)
                with gr.Row():
                    self.certainty = gr.Slider(0, 1, 0, step=0.05, label="Certainty from", min_width=140, buttons=[])
                    self.score = gr.Slider(0, 1, 0, step=0.05, label="Score from", min_width=140, buttons=[])
                self.list = gr.HTML(js_on_load="monosem.hits(element, trigger)", apply_default_css=False)
            with gr.Column(scale=4, min_width=320):
                with gr.Row(elem_classes="ms-acts"):
                    self.previous = gr.Button("← Previous", size="sm", min_width=90)
                    self.next = gr.Button("Next →", size="sm", min_width=90)
                    self.random = gr.Button("Random", size="sm", min_width=90)
                    self.steer = gr.Button("Steer with it", size="sm", min_width=90, variant="primary")
                self.card = gr.HTML(
                    js_on_load="monosem.card(element, trigger, watch)", apply_default_css=False, elem_id="ms-card"
                )
                with gr.Accordion("Your note on this latent", open=False, elem_classes="ms-aside"):
                    self.rating = gr.Radio([*RATINGS.items()], label="The machine's explanation is")
                    self.note = gr.Textbox(label="A better explanation", lines=2)
                    self.keep = gr.Button("Keep this note", size="sm", elem_classes="ms-act")
                    self.told = gr.HTML(apply_default_css=False)
        self._wire()

    @property
    def queried(self) -> list[Any]:
        """The components that say what to look for."""
        return [self._run, self.words, self.order, self.certainty, self.density, self.score]

    @property
    def shown(self) -> list[Any]:
        """The components of `Shown`, in its order."""
        return [self.card, self.latent, self.note, self.rating, self.told]

    def _wire(self) -> None:
        listed = [self.list, self.found]
        for control in self.queried[1:]:
            control.change(self.search, [*self.queried, self.latent], listed, trigger_mode="always_last", **QUIET)
        self.words.submit(self.enter, self.queried, [*listed, *self.shown], **QUIET)
        self.list.select(self.lengthen, [*self.queried, self.latent], self.list, **QUIET)
        here = [self._run, self.latent, self.found]
        self.list.click(self.follow, [self._run], self.shown, **QUIET)
        self.card.click(self.follow, [self._run], self.shown, **QUIET)
        self.card.select(self.all_sentences, [self._run, self.latent], self.card, **QUIET)
        for button, by in ((self.previous, -1), (self.next, 1)):
            button.click(functools.partial(self.step, by), here, self.shown, **QUIET)
        self.random.click(self.draw, here, self.shown, **QUIET)
        kept = [self._run, self.latent, self.note, self.rating]
        self.keep.click(self.annotate, kept, self.shown, **QUIET)

    def search(self, *query: Any) -> tuple[str, list[int]]:
        """The list and the latents found; `query`: the values of `queried`, and the latent that is looked at."""
        return self._listed(LISTED, *query)

    def enter(self, *query: Any) -> tuple[str, list[int], *tuple[Any, ...]]:
        """The list, and the card of its first latent; where nothing is found, the card stays."""
        listed, found = self.search(*query, None)
        if not found:
            return listed, found, *[gr.skip()] * len(self.shown)
        return listed, found, *self.show(query[0], found[0])

    def lengthen(self, event: gr.EventData, *query: Any) -> str:
        """The list, with more of what was found."""
        return self._listed(int(event._data["more"]) + 5 * LISTED, *query)[0]

    def _listed(self, most: int, name: str, words: str, *rest: Any) -> tuple[str, list[int]]:
        order, certainty, density, score, current = rest
        query = Query(words or "", order, certainty or 0.0, DENSITIES[density], score or 0.0)
        try:
            hits = hits_view(self._library.run(name), query, most, current)
        except MonosemError as error:
            return message(str(error), "error"), []
        return hits.html, hits.latents

    def show(self, name: str, latent: int | None, said: str = "") -> Shown:
        """A latent's card; a mistake is one line in its place."""
        if latent is None:
            return Shown("", None, "", None, said)
        try:
            run = self._library.run(name)
            card = card_view(run, latent)
            note = run.files.annotations.get(latent)
        except MonosemError as error:
            return Shown(message(str(error), "error"), None, "", None, "")
        return Shown(card, latent, (note and note.explanation) or "", note and note.rating, said)

    def follow(self, event: gr.EventData, name: str) -> Shown:
        """The latent of a link that was clicked."""
        return self.show(name, int(event._data["latent"]))

    def step(self, by: int, name: str, latent: int | None, found: list[int]) -> Shown:
        """The next of the list, or the previous; where the list lacks the latent, by number."""
        if latent is None:
            return self.show(name, found[0] if found else None)
        if latent in found:
            return self.show(name, found[(found.index(latent) + by) % len(found)])
        n = self._library.run(name).files.figures().n
        return self.show(name, (latent + by) % n)

    def draw(self, name: str, latent: int | None, found: list[int]) -> Shown:
        """A latent of the list, drawn at random."""
        return self.show(name, random.choice(found) if found else latent)

    @told
    def all_sentences(self, name: str, latent: int) -> str:
        """The card with all of its sentences."""
        return card_view(self._library.run(name), latent, ALL)

    def annotate(self, name: str, latent: int | None, note: str, rating: str | None) -> Shown:
        """Keep a note, and show the card with it."""
        try:
            if latent is None:
                raise RunError("no latent is shown")
            run = self._library.run(name)
            run.files.check(latent)
            annotations.add(run.run.path / annotations.ANNOTATIONS, latent, note, rating)
        except MonosemError as error:
            return self.show(name, latent, message(str(error), "error"))._replace(note=note, rating=rating)
        return self.show(name, latent, message(f"kept in {annotations.ANNOTATIONS}"))

    def begin(self, name: str, asked: str | None) -> tuple[str, list[int], *tuple[Any, ...]]:
        """List and card of a fresh page: those that its address asks for, else the first of the list."""
        listed, found = self.search(name, "", "best", 0.0, ANY, 0.0, None)
        if asked is None:
            return listed, found, *self.show(name, found[0] if found else None)
        if not asked.lstrip("-").isdecimal():
            line = message(f"latent {asked!r} is not a number; a link ends with latent=123", "error")
            return listed, found, line, None, "", None, ""
        return listed, found, *self.show(name, int(asked))


def opened(run: OpenRun) -> str:
    """One line about a run, for the head of the page."""
    recipe = run.run.recipe
    return f"{recipe.sae.n:,} latents at {recipe.hook_point} of {recipe.model.source}"
