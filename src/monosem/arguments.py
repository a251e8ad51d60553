"""What each verb of the command line takes: frozen dataclasses that tyro reads, field texts being the help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from monosem.recipe import Aggregation, Recipe

RUNS = Path("runs")
Verb = Literal[
    "sentences",
    "capture",
    "prepare",
    "train",
    "finetune",
    "codes",
    "examples",
    "coactivation",
    "groups",
    "explain",
    "evaluate",
    "score",
    "report",
]
EXPLAIN_STEPS = ("plan", "send", "status", "fetch", "parse", "run")
Mode = Literal["add", "clamp", "scale", "ablate"]


@dataclass(frozen=True)
class StageArguments:
    """A run and its recipe. Every key of the recipe can be set here; the defaults shown are the recipe's values."""

    target: tyro.conf.Positional[str]
    """A recipe (`recipes/demo.toml`), a run folder (`runs/demo`), or the name of a run (`demo`)."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    runs: Path = RUNS
    """Folder that holds the run folders."""
    redo: Verb | None = None
    """Delete the files of this stage and of all that follow, then make them again."""
    dry_run: bool = False
    """Rehearse the recipe in minutes on a CPU: a random model of its width with two layers, few sentences and steps."""
    json: bool = False
    """Print the result as one JSON object."""


@dataclass(frozen=True)
class EstimateArguments:
    """Foresee a run: disk, memory, time and money of every stage, before anything starts. Writes nothing.

    Any key of the recipe may be given. A small corpus is read, of a large one a sample; of a hub's model and dataset
    nothing but the model's `config.json` is fetched. What does not fit the machine is named, with the keys that would
    change it, and the exit code is 2.

    Example: monosem estimate recipes/llama-3.2-3b-reference.toml --gpus 8 --gpu rtx4090
    """

    target: tyro.conf.Positional[str]
    """A recipe (`recipes/demo.toml`), a run folder (`runs/demo`), or the name of a run (`demo`)."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    gpu: Literal["rtx4090", "a100", "h100", "h200"] | None = None
    """The kind of GPU. None: the machine that this runs on."""
    gpus: int = 1
    """How many of them."""
    measure: bool = False
    """Load the model, time a few real steps here, and reckon with these."""
    runs: Path = RUNS
    """Folder that would hold the run, whose disk is looked at unless --gpu names another machine."""
    json: bool = False
    """Print the estimate as one JSON object."""


@dataclass(frozen=True)
class ExplainArguments(StageArguments):
    """Say in words what each latent reacts to: all of it, or one step of asking a provider.

    `monosem explain RUN` makes the stage. A provider that is asked (`explain.provider`) is asked in steps, each of
    which can be given alone and again: `monosem explain plan RUN` writes the requests and says what they cost, `send`
    sends them, `status` says how far they are, `fetch` brings the answers, `parse` makes `explanations.jsonl`; `run`
    does all of it and waits. Nothing is sent without `--yes`.

    Example: monosem explain plan runs/demo --explain.provider anthropic --explain.model claude-haiku-5-5
    """

    yes: bool = False
    """Send what was planned. It may cost money."""
    max_usd: float | None = None
    """Most that may be spent on this run's explanations, in US dollars (`explain.max_usd`)."""
    resend_lost: bool = False
    """With `send`: ask once more what stands in batches that are gone at the provider, and pay for it once more."""
    final: bool = False
    """With `parse`: leave unexplained what could be asked again."""
    step: tyro.conf.Suppress[str] = "run"
    """Which step; `run`: all of them."""


@dataclass(frozen=True)
class SweepArguments:
    """Train many SAEs in one pass over the activations, and compare them.

    Any key of the recipe may be given. One with several values is an axis: `--sae.k 16,32,64 --seed 0,1,2` trains
    nine. Keys that hold lists take `;` between values: `--sae.prefixes "512;512,2048"`. The table and the plot lie in
    `RUN/sweep/`.

    Example: monosem sweep recipes/demo.toml --sae.k 16,32 --sae.n 4096,8192
    """

    target: tyro.conf.Positional[str]
    """A recipe (`recipes/demo.toml`), a run folder (`runs/demo`), or the name of a run (`demo`)."""
    runs: Path = RUNS
    """Folder that holds the run folders."""
    json: bool = False
    """Print the table as a JSON list."""
    keys: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The pairs of `--key value`."""


@dataclass(frozen=True)
class ShowArguments:
    """Show one latent: its explanation, its figures, the sentences that activate it most."""

    target: tyro.conf.Positional[str]
    """A run folder, or the name of a run."""
    latent: tyro.conf.Positional[int]
    """Number of the latent, from 0."""
    aggregation: Aggregation | Literal["quantile", "random"] = "max"
    """Which sentences are shown: the best by an aggregation, some spread over its strength, or random ones."""
    top: int = 10
    """Sentences shown."""
    runs: Path = RUNS
    """Folder that holds the run folders."""
    json: bool = False
    """Print the card as one JSON object."""


@dataclass(frozen=True)
class SearchArguments:
    """Find latents by words in their explanations and sentences."""

    target: tyro.conf.Positional[str]
    """A run folder, or the name of a run."""
    words: tyro.conf.Positional[tuple[str, ...]]
    """Words to look for; upper and lower case are the same."""
    limit: int = 10
    """Most latents listed."""
    runs: Path = RUNS
    """Folder that holds the run folders."""
    json: bool = False
    """Print the hits as a JSON list."""


@dataclass(frozen=True)
class NeighboursArguments:
    """Show the latents that fire on the same tokens as one, or whose decoder rows point the same way."""

    target: tyro.conf.Positional[str]
    """A run folder, or the name of a run."""
    latent: tyro.conf.Positional[int]
    """Number of the latent, from 0."""
    by: Literal["jaccard", "conditional", "reverse", "pmi", "cosine"] = "jaccard"
    """`jaccard`: tokens with both over tokens with either; `conditional`: P(neighbour | latent); `reverse`: P(latent |
    neighbour); `pmi`: pointwise mutual information; `cosine`: of the decoder rows."""
    top: int = 10
    """Neighbours listed."""
    runs: Path = RUNS
    """Folder that holds the run folders."""
    json: bool = False
    """Print the neighbours as one JSON object."""


@dataclass(frozen=True)
class CompleteArguments:
    """Complete prompts with the run's language model, steered by latents of its SAE."""

    target: tyro.conf.Positional[str]
    """A run folder, or the name of a run."""
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
    runs: Path = RUNS
    """Folder that holds the run folders."""
    json: bool = False
    """Print one JSON object for each text."""


@dataclass(frozen=True)
class ChatArguments:
    """Talk to the run's language model, steered by latents of its SAE. `/help` in the chat lists its commands."""

    target: tyro.conf.Positional[str]
    """A run folder, or the name of a run."""
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
    runs: Path = RUNS
    """Folder that holds the run folders."""


@dataclass(frozen=True)
class TokensArguments:
    """Read a text with the run's language model: the latents that fire at each of its tokens.

    Example: monosem tokens demo "The Security Council met in New York." --top 3
    """

    target: tyro.conf.Positional[str]
    """A run folder, or the name of a run."""
    text: tyro.conf.Positional[str]
    """The text; `-`: standard input."""
    top: int = 5
    """Latents listed at each token."""
    runs: Path = RUNS
    """Folder that holds the run folders."""
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
    runs: Path = RUNS
    """Folder that holds the run folders."""


@dataclass(frozen=True)
class ModelsArguments:
    """List the language models that are known by name, with the memory they need."""

    json: bool = False
    """Print the list as JSON."""


@dataclass(frozen=True)
class StoreVerify:
    """Compare every shard with its checksum, over all cores; exit code 2 if any is damaged or missing."""

    path: tyro.conf.Positional[str]
    """A finished `activations/HOOK` or `batches/HOOK`: its folder, or an fsspec URL."""
    json: bool = False
    """Print the result as one JSON object."""


@dataclass(frozen=True)
class StoreList:
    """List the shards."""

    path: tyro.conf.Positional[str]
    """A finished `activations/HOOK` or `batches/HOOK`: its folder, or an fsspec URL."""
    json: bool = False
    """Print the list as JSON."""


@dataclass(frozen=True)
class StoreStats:
    """Show count, norms, variance, format, what was dropped, model and hook point."""

    path: tyro.conf.Positional[str]
    """A finished `activations/HOOK` or `batches/HOOK`: its folder, or an fsspec URL."""
    json: bool = False
    """Print the figures as one JSON object."""


@dataclass(frozen=True)
class StoreMerge:
    """Join parts of one capture that were made in different places; shards are linked where the disk allows it."""

    target: tyro.conf.Positional[Path]
    """The new folder."""
    sources: tyro.conf.Positional[tuple[Path, ...]]
    """Finished `activations/HOOK` folders of the same model, hook point and sentences."""
    json: bool = False
    """Print the result as one JSON object."""


@dataclass(frozen=True)
class StorePack:
    """Copy a store into a few large archives, to be uploaded. A packed store is read as it is: nothing unpacks it."""

    path: tyro.conf.Positional[str]
    """A finished `activations/HOOK` or `batches/HOOK`: its folder, or an fsspec URL."""
    target: tyro.conf.Positional[str]
    """A folder or fsspec URL for the archives; what an interrupted packing wrote there is kept."""
    gb: float = 8.0
    """Size of an archive, in 10^9 bytes."""
    json: bool = False
    """Print the result as one JSON object."""


@dataclass(frozen=True)
class StoreArguments:
    """Check, list, measure, merge or pack stores of activations.

    Example: monosem store pack runs/demo/batches/20.resid_post s3://bucket/demo/20.resid_post
    """

    action: tyro.conf.OmitSubcommandPrefixes[
        tyro.conf.OmitArgPrefixes[
            Annotated[StoreVerify, tyro.conf.subcommand("verify")]
            | Annotated[StoreList, tyro.conf.subcommand("ls")]
            | Annotated[StoreStats, tyro.conf.subcommand("stats")]
            | Annotated[StoreMerge, tyro.conf.subcommand("merge")]
            | Annotated[StorePack, tyro.conf.subcommand("pack")]
        ]
    ]
