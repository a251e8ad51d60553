"""Of the verbs that run the language model with an SAE inside."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from monosem.cli.arguments.fields import RUNS, FinishedRun, Mode, RunsFolder


@dataclass(frozen=True)
class CompleteArguments:
    """Complete prompts with the run's language model, steered by latents of its SAE."""

    target: FinishedRun
    prompts: tyro.conf.Positional[tuple[str, ...]] = ()
    """Texts to go on from; `-`: the lines of standard input."""
    file: str | None = None
    """A text file (`-`: standard input), each line a prompt."""
    steer: tuple[str, ...] = ()
    """`LATENT=VALUE`, in units of the codes, or `LATENT=VALUEmax` for multiples of its largest observed activation."""
    mode: Mode = "add"
    """What VALUE does: added to the code, set as the code, multiplied with it; `ablate` needs no value."""
    steering: Path | None = None
    """A file of edits, as `/save` in a chat writes it; those of --steer are added."""
    replace: bool = False
    """Put the SAE's reconstruction in the activation's place, instead of keeping its error."""
    compare: bool = False
    """Write each text twice with the same seed, plain and steered, with its perplexity under the plain model."""
    show_latents: bool = False
    """Under every text, the latents that are most active at each token, before any edit."""
    top_latents: int = 3
    """Latents shown at each token."""
    temperature: float = 0.0
    """0: always the most probable token."""
    top_p: float = 1.0
    """Sample only among the most probable tokens that make up this share."""
    seed: int = 0
    """Seed of the sampling; each text has draws of its own, whatever stands beside it."""
    samples: int = 1
    """Texts for each prompt, with this seed and those that follow."""
    max_new_tokens: int = 40
    """Most tokens generated."""
    runs: RunsFolder = RUNS
    json: bool = False
    """Print one JSON object for each text."""


@dataclass(frozen=True)
class ChatArguments:
    """Talk to the run's language model, steered by latents of its SAE. `/help` in the chat lists its commands."""

    target: FinishedRun
    steer: tuple[str, ...] = ()
    """Steering to begin with: `LATENT=VALUE` or `LATENT=VALUEmax`, as `/steer` in the chat."""
    mode: Mode = "add"
    """What VALUE does, as `/mode` in the chat."""
    steering: Path | None = None
    """A file of edits, as `/save` writes it; those of --steer are added."""
    replace: bool = False
    """Put the SAE's reconstruction in the activation's place, instead of keeping its error."""
    system: str | None = None
    """System message; without one the model's own."""
    compare: bool = False
    """Answer plain and steered."""
    show_latents: bool = False
    """Under every answer, the latents that are most active at each token, before any edit."""
    temperature: float = 0.6
    """0: always the most probable token."""
    top_p: float = 0.9
    """Sample only among the most probable tokens that make up this share."""
    seed: int = 0
    """Seed of the sampling: the same conversation gets the same answers."""
    max_new_tokens: int = 400
    """Most tokens of an answer."""
    runs: RunsFolder = RUNS


@dataclass(frozen=True)
class TokensArguments:
    """Read a text with the run's language model: the latents that fire at each of its tokens.

    Example: monosem tokens demo "The Security Council met in New York." --top 3
    """

    target: FinishedRun
    text: tyro.conf.Positional[str]
    """The text; `-`: standard input."""
    top: int = 5
    """Latents listed at each token."""
    runs: RunsFolder = RUNS
    json: bool = False
    """Print the tokens as a JSON list."""


@dataclass(frozen=True)
class AppArguments:
    """Open a page on runs: explore latents, read texts, steer, follow training. On this machine, until Ctrl-C.

    Needs `pip install "monosem[app]"`. A password comes from the environment, MONOSEM_PASSWORD, or is asked for.
    """

    targets: tyro.conf.Positional[tuple[str, ...]]
    """Run folders, or names of runs."""
    host: str = "127.0.0.1"
    """Address to listen on. Others than 127.0.0.1 open the page to the network: give it a password."""
    port: int = 7860
    """0: any that is free."""
    password: bool = False
    """Ask for a password that the page then asks for."""
    runs: RunsFolder = RUNS


@dataclass(frozen=True)
class ModelsArguments:
    """List the language models that are known by name, with the memory they need."""

    json: bool = False
    """Print the list as JSON."""
