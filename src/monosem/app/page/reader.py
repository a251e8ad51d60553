"""The tab where a text is pasted and its latents are seen, token by token."""

from typing import Any, NamedTuple

import gradio as gr

from monosem.app.page.library import Library
from monosem.app.page.render import guide, message
from monosem.app.page.token_views import ranking_view, summary_view, text_view
from monosem.app.page.wiring import QUIET, check_text, told
from monosem.errors import MonosemError

MOST_LATENTS = 32  # read at each token


class Pasted(NamedTuple):
    """A text that was read, of a run."""

    run: str
    tokens: list[Any]


class ReaderTab:
    """The tab's components and handlers."""

    def __init__(self, library: Library, run: gr.Dropdown) -> None:
        self._library, self._run = library, run
        self.pasted = gr.State(None)
        gr.HTML(guide("text"), apply_default_css=False)
        self.words = gr.Textbox(label="Text", lines=4, max_lines=12, placeholder="Paste or write a text")
        self.read = gr.Button("Read", variant="primary", elem_classes="ms-act")
        self.said = gr.HTML(apply_default_css=False)
        script = "monosem.tokens(element, trigger)"
        self.text = gr.HTML(js_on_load=script, apply_default_css=False)
        with gr.Row():
            with gr.Column(min_width=300):
                self.ranking = gr.HTML(js_on_load=script, apply_default_css=False)
            with gr.Column(min_width=300):
                self.summary = gr.HTML(js_on_load=script, apply_default_css=False)
        outputs = [self.said, self.pasted, self.text, self.ranking, self.summary]
        gr.on(
            [self.read.click, self.words.submit],
            self.take,
            [self._run, self.words],
            outputs,
            concurrency_limit=4,
            trigger_mode="always_last",  # what is asked for while the model reads is read next
            show_progress="hidden",
            api_visibility="private",
        )
        self.text.select(self.rank, self.pasted, self.ranking, **QUIET)
        self.summary.submit(self.light, self.pasted, [self.text, self.summary], **QUIET)

    def take(self, name: str, text: str):
        """Read a text; says first what it waits for."""
        try:
            check_text(text, "the text")
        except MonosemError as error:
            yield message(str(error), "error"), None, "", "", ""
            return
        yield message("reading …" if self._library.loaded(name) else "loading the model …"), None, "", "", ""
        try:
            completer = self._library.completer(name)
            from monosem.completion import read

            tokens = read(completer, text, MOST_LATENTS)
        except MonosemError as error:
            yield message(str(error), "error"), None, "", "", ""
            return
        first = next((token for token in tokens if token.latents), tokens[0])
        views = text_view(tokens, None), ranking_view(first, name), summary_view(tokens, name, None)
        yield "", Pasted(name, tokens), *views

    @told
    def rank(self, pasted: Pasted, event: gr.EventData) -> str:
        """The latents at the token that was chosen."""
        return ranking_view(pasted.tokens[int(event._data["place"])], pasted.run)

    def light(self, pasted: Pasted, event: gr.EventData) -> tuple[str, str]:
        """The text lit by one latent, or by none in particular."""
        asked = int(event._data["shade"])
        shade = asked if asked >= 0 else None
        return text_view(pasted.tokens, shade), summary_view(pasted.tokens, pasted.run, shade)
