"""A run's language model, writing under its SAE: the one core of `complete`, `chat` and the page.

Flow: prompts become rows, checked before anything is written; the model writes them in batches under one hook, which
reads and edits; every token is an event. `complete` collects the events. Knows no way of showing things.
"""

import dataclasses
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from monosem.completion.events import ActiveLatent, Began, Completion, Ended, Event, Prompt, Read, Row, Wrote
from monosem.completion.hook import Reading, RowHook
from monosem.completion.writing import Writing
from monosem.errors import ModelError, RunError
from monosem.evaluate.replay import HEAD_ROWS, Replay
from monosem.interpret import cards
from monosem.lm.generate import Sampling, Step, check_prompts
from monosem.lm.packed import Packed
from monosem.lm.protocol import LanguageModel
from monosem.lm.source import open_model
from monosem.run import Run
from monosem.sae import files
from monosem.sae.codes import Codes
from monosem.steering import Edit, Steering, observed_maxima, within

BATCH = 32  # rows written at once: their keys and values are in memory together


class Explained(NamedTuple):
    """What a latent reacts to, in words."""

    explanation: str | None
    certainty: float | None


class Options(TypedDict, total=False):
    """The options of `Completer.stream`, where they are described."""

    error_preserving: bool
    compare: bool
    samples: int
    show_latents: int
    perplexity: bool


class Completer:
    """A run's SAE and language model, ready to write.

    Args:
        model: the run's language model, if it is in memory already; else it is loaded when it is first needed.

    Raises:
        RunError: the run has no trained SAE.
        SaeError: its files are damaged.
    """

    def __init__(self, run: Run, model: LanguageModel | None = None) -> None:
        self._run, self._given = run, model
        folder = run.sae_folder
        if not folder.is_dir():
            raise RunError(f"{run.path}: has no trained SAE yet; make it with: monosem run {run.path}")
        self.sae = files.load(folder)
        self._maxima = observed_maxima(run, self.sae.config.n)
        # A model's hooks are its own state: nobody else may begin a pass while one session puts its hook in place.
        self._beginning = threading.Lock()

    def complete(
        self,
        prompts: Sequence[str | Prompt],
        edits: Sequence[Edit] = (),
        sampling: Sampling | None = None,
        **options: Unpack[Options],
    ) -> list[Completion]:
        """Everything that `stream` writes, row by row. Takes and raises what `stream` does."""
        events = self.stream(prompts, edits, sampling, **options)
        ended = {event.row: event.completion for event in events if isinstance(event, Ended)}
        return [ended[row] for row in sorted(ended)]

    def stream(
        self,
        prompts: Sequence[str | Prompt],
        edits: Sequence[Edit] = (),
        sampling: Sampling | None = None,
        *,
        error_preserving: bool = True,
        compare: bool = False,
        samples: int = 1,
        show_latents: int = 0,
        perplexity: bool = False,
    ) -> Generator[Event, None, None]:
        """Continue each prompt, told token by token; the rows do not influence each other.

        Closing the iterator ends the writing. The rows are those of the first prompt, then those of the second.

        Args:
            compare: write each text twice with one seed, plain (row 2i) and steered (row 2i + 1).
            samples: texts to write for each prompt; the seeds are `sampling.seed` and those that follow.
            show_latents: how many latents to read at every new token. 0: none. They are read as the text is written,
                before the edit.
            perplexity: let the clean model judge each text once it is finished, in one more pass.

        Raises:
            SaeError: an edit does not fit the SAE; found before the model is loaded.
            ModelError: a prompt is empty or too long, or the sampling is out of range; found before any is written.
        """
        steering = self.steering(edits, error_preserving=error_preserving)
        for place, prompt in enumerate(prompts):
            if isinstance(prompt, str):
                check_text(prompt, f"prompt {place}")
        chosen = dataclasses.replace(sampling or Sampling(), read_last=show_latents > 0)
        known = [self._known(prompt) for prompt in prompts]
        check_prompts([prompt.ids for prompt in known], chosen, self.model.config.context_length)
        rows = [
            Row(prompt, chosen.seed + sample, steered)
            for prompt in known
            for sample in range(samples)
            for steered in ((False, True) if compare else (True,))
        ]

        def hook_of(batch: Sequence[Row]) -> RowHook:
            return RowHook(self.sae, steering, [row.steered for row in batch], show_latents)

        return self._batches(rows, hook_of, chosen, perplexity)

    def steering(self, edits: Sequence[Edit], *, error_preserving: bool = True) -> Steering | None:
        """The hook of these edits; None where it would change nothing. Raises SaeError where one does not fit."""
        steering = Steering(self.sae, edits, self._maxima, error_preserving=error_preserving)
        return steering if edits or not error_preserving else None

    @cached_property
    def model(self) -> LanguageModel:
        model = self._given or open_model(self._run.recipe.model)
        self.sae.to(model.device)
        return model

    def _known(self, prompt: str | Prompt) -> Prompt:
        return prompt if isinstance(prompt, Prompt) else Prompt(prompt, self.model.tokenizer.encode_prompt(prompt))

    def _batches(
        self, rows: Sequence[Row], hook_of: Callable[[Sequence[Row]], RowHook], sampling: Sampling, perplexity: bool
    ) -> Generator[Event, None, None]:
        for first in range(0, len(rows), BATCH):
            batch = rows[first : first + BATCH]
            for event in self._write(batch, hook_of(batch), sampling, perplexity):
                yield event._replace(row=first + event.row)

    def _write(self, rows: Sequence[Row], hook: RowHook, sampling: Sampling, perplexity: bool) -> Iterator[Event]:
        """The events of one batch."""
        writings = [Writing(row, self.model.tokenizer) for row in rows]
        yield from (Began(place, row) for place, row in enumerate(rows))
        for step in self._steps(rows, hook, sampling):
            yield from self._told(hook.take(), writings, perplexity)
            hook.follow(step)
            for place, token, ended in zip(step.rows, step.ids, step.ended, strict=True):
                if written := writings[place].push(token, ended):
                    yield Wrote(place, *written)
                if ended and not sampling.read_last:
                    yield self._ended(place, writings[place], perplexity)
        yield from self._told(hook.take(), writings, perplexity)
        for place, writing in enumerate(writings):
            if not writing.told:  # a model that does not read the last token leaves it without latents
                yield self._ended(place, writing, perplexity)

    def _steps(self, rows: Sequence[Row], hook: RowHook, sampling: Sampling) -> Iterator[Step]:
        ids = [row.prompt.ids for row in rows]
        hook.begin(ids)
        # without anything to do no hook is put in place: plain text costs nothing more
        with self._beginning, self.model.hooks(hook.hooks(self._run.recipe)):
            return self.model.generate(ids, sampling, [row.seed for row in rows])

    def _told(
        self, readings: Sequence[Reading], writings: Sequence[Writing], perplexity: bool
    ) -> Iterator[Read | Ended]:
        """What the last pass read; a row whose last token it was ends."""
        for reading in readings:
            writing = writings[reading.row]
            latents = [self.active(*pair) for pair in zip(reading.latents, reading.values, strict=True)]
            if writing.read(latents):
                yield Read(reading.row, latents)
            if writing.full:
                yield self._ended(reading.row, writing, perplexity)

    def _ended(self, place: int, writing: Writing, perplexity: bool) -> Ended:
        judged = self.perplexity(writing.row.prompt.ids, writing.ids) if perplexity else None
        return Ended(place, *writing.end(judged))

    def explained(self, latent: int) -> Explained:
        """What a latent reacts to, where the run says so."""
        return self._explanations.get(latent, Explained(None, None))

    def perplexity(self, prompt: Sequence[int], new: Sequence[int]) -> float:
        """Of the tokens `new` behind `prompt`, under the clean model: exp of their mean loss."""
        packed = Packed.pack([[*prompt, *new]], self.model.device)
        end = f"{self.model.config.n_layers - 1}.resid_post"
        with self._beginning:
            x = self.model.activations(packed, [end])[end][len(prompt) - 1 : -1]
            targets = packed.ids[len(prompt) :].split(HEAD_ROWS)
            logits = Replay(self.model, end).head(x)
            losses = [F.cross_entropy(*pair, reduction="none") for pair in zip(logits, targets, strict=True)]
        return torch.cat(losses).mean().exp().item()

    @torch.no_grad()
    def codes(self, ids: Sequence[int]) -> tuple[Codes, Tensor]:
        """The codes of every token of a text under the clean model, and `[T]` bool whether the SAE knows its like."""
        point = self._run.recipe.hook_point
        with self._beginning:
            x = self.model.activations(Packed.pack([ids], self.model.device), [point])[point]
        x = x.to(self.sae.W_enc.device)
        return self.sae.encode(x), within(x, self.sae.config.norm_threshold)

    def maximum(self, latent: int) -> float | None:
        """A latent's largest value on the corpus, where it is known and the latent fires at all."""
        return float(self._maxima[latent]) or None if self._maxima is not None else None

    def active(self, latent: int, value: float) -> ActiveLatent:
        """A latent that fires, with what is known of it."""
        highest = self.maximum(latent)
        return ActiveLatent(latent, value, value / highest if highest else None, *self.explained(latent))

    @cached_property
    def _explanations(self) -> dict[int, Explained]:
        rows = cards.read_explanations(self._run.path)
        return {row["latent"]: Explained(row["explanation"], row["certainty"]) for row in rows}


def check_text(text: str, what: str) -> None:
    """Raise ModelError for a text that cannot be written as UTF-8, as bytes of another encoding leave it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ModelError(f"{what} holds bytes that are not UTF-8; give it in UTF-8") from None
