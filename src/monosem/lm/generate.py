"""Sampling, and the loop that continues prompts token by token.

Every row has a random generator of its own, so that its text does not depend on its neighbours. Rows that end leave the
batch. The loop knows a `Decoder` (next-token logits for growing rows), not how a model keeps its cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from monosem.errors import ModelError
from monosem.lm.config import ModelConfig
from monosem.lm.packed import Packed
from monosem.lm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and how many."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    """0: the most probable token, always."""
    top_p: float = 1.0
    """Draw from the fewest tokens that together have at least this probability (nucleus, arXiv 1904.09751)."""
    seed: int = 0
    read_last: bool = False
    """Also pass the last token of every row through the model, so that hooks see it. Changes no text."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ModelError(f"max_new_tokens is {self.max_new_tokens}, expected at least 1")
        if not self.temperature >= 0:
            raise ModelError(f"temperature is {self.temperature}, expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ModelError(f"top_p is {self.top_p}, expected more than 0 and at most 1")


_TILE = 64


class Step(NamedTuple):
    """One new token for every row that has not ended."""

    rows: list[int]
    """Indices of the prompts. The next pass reads one token of each row that has not ended (with `Sampling.read_last`,
    of every row), in this order: so hooks see their activations."""
    ids: list[int]
    """The new token of each of `rows`."""
    ended: list[bool]
    """Whether the row ends with this token: it closes the text, or is the last one asked for."""


class Decoder(Protocol):
    """Next-token logits for R rows that grow token by token."""

    def begin(self, prompts: Packed) -> Tensor:
        """Read all prompts; returns the logits behind each `[R, vocab]`, fp32."""
        ...

    def step(self, ids: Tensor) -> Tensor:
        """Append one token `ids [R]` to each row; returns the logits there `[R, vocab]`, fp32."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with the rows at these indices alone."""
        ...


class Generator(Protocol):
    """A model that can begin a `Decoder`."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def device(self) -> torch.device: ...
    def decoder(self, rows: int, capacity: int) -> Decoder: ...


def generate(
    model: Generator, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int] | None = None
) -> Iterator[Step]:
    """Continue `prompts`; see `monosem.lm.protocol.LanguageModel.generate`."""
    check_prompts(prompts, sampling, model.config.context_length)
    if seeds is not None and len(seeds) != len(prompts):
        raise ModelError(f"{len(seeds)} seeds for {len(prompts)} prompts; give one for each")
    if not prompts:
        return iter(())
    capacity = max(len(prompt) for prompt in prompts) + sampling.max_new_tokens
    decoder = model.decoder(len(prompts), capacity)
    sampler = Sampler(sampling, seeds or [sampling.seed] * len(prompts))
    return _steps(decoder, Packed.pack(prompts).to(model.device), sampler, frozenset(model.tokenizer.eos_ids))


def check_prompts(prompts: Sequence[Sequence[int]], sampling: Sampling, context_length: int) -> None:
    """Raise ModelError for a prompt that is empty, or that leaves no room for the new tokens in the context."""
    room = context_length - sampling.max_new_tokens
    for row, prompt in enumerate(prompts):
        which = f"prompt {row}" if len(prompts) > 1 else "the prompt"
        if not len(prompt):
            raise ModelError(f"{which} is empty")
        if len(prompt) > room:
            raise ModelError(
                f"{which} has {len(prompt)} tokens; with {sampling.max_new_tokens} new ones at most "
                f"{max(room, 0)} fit the context of {context_length}"
            )


def _steps(decoder: Decoder, prompts: Packed, sampler: "Sampler", eos_ids: frozenset[int]) -> Iterator[Step]:
    rows = list(range(prompts.n_sentences))
    logits = decoder.begin(prompts)
    for left in reversed(range(sampler.sampling.max_new_tokens)):
        chosen = sampler.choose(logits, rows)
        ids = chosen.tolist()
        ended = [left == 0 or token in eos_ids for token in ids]
        yield Step(rows, ids, ended)
        going = torch.tensor([place for place, end in enumerate(ended) if not end], device=chosen.device)
        if sampler.sampling.read_last:
            logits = decoder.step(chosen)
        if not len(going):
            return
        if any(ended):
            rows = [rows[place] for place in going.tolist()]
            decoder.keep(going)
            chosen, logits = chosen[going], logits[going]
        if not sampler.sampling.read_last:
            logits = decoder.step(chosen)


class Sampler:
    """Chooses tokens from logits, with one random generator a row."""

    def __init__(self, sampling: Sampling, seeds: Sequence[int]):
        self.sampling = sampling
        self._random = [torch.Generator().manual_seed(seed) for seed in seeds]

    def choose(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        """Return ids `[R]` for `logits [R, vocab]`; `rows` says whose generator each uses."""
        if self.sampling.temperature == 0:
            return first_largest(logits)
        probability = (logits / self.sampling.temperature).softmax(-1)
        probability, token = probability.sort(dim=-1, descending=True, stable=True)
        mass = probability.double().cumsum(-1)
        enough = torch.full_like(mass[:, :1], self.sampling.top_p)
        last = torch.searchsorted(mass, enough).clamp(max=mass.shape[-1] - 1)
        drawn = [torch.rand((), generator=self._random[row], dtype=torch.float64) for row in rows]
        target = torch.stack(drawn)[:, None].to(mass) * mass.gather(-1, last)
        return token.gather(-1, torch.searchsorted(mass, target, right=True).minimum(last)).squeeze(-1)


def first_largest(logits: Tensor) -> Tensor:
    """`logits.argmax(-1)` for `[R, vocab]`, first place among equals; on a CPU by the maxima of tiles."""
    if not logits.is_cpu or logits.shape[-1] % _TILE:
        return logits.argmax(-1)
    tiles = logits.unflatten(-1, (-1, _TILE))
    tile = tiles.amax(-1).argmax(-1)
    return tile * _TILE + tiles[torch.arange(len(tile)), tile].argmax(-1)


def collect(steps: Iterator[Step], rows: int) -> list[list[int]]:
    """Run `steps` to the end; returns the new tokens of each row, the closing token included."""
    texts: list[list[int]] = [[] for _ in range(rows)]
    for step in steps:
        for row, token in zip(step.rows, step.ids, strict=True):
            texts[row].append(token)
    return texts
