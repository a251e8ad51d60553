"""Steering: change latents of an SAE while the language model runs.

Flow: `parse` reads `896=20` or `896=2max` into an `Edit`; `Steering` turns edits into functions for `model.hooks`;
`steer` holds them in place for a `with` block. Values are in the latent's own units, the ones `sae.encode` returns.
Error-preserving by default: only the difference that the edits make is added, what the SAE cannot rebuild stays. A
transcoder's latents are read at one hook point, and edited where it writes.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import pyarrow.parquet as pq
import torch
from torch import Tensor

from monosem.errors import RecipeError, SaeError
from monosem.lm.hookpoints import require_before
from monosem.run import Run
from monosem.sae import files
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.codes import Codes

if TYPE_CHECKING:
    from monosem.lm.hooks import Hook
    from monosem.lm.protocol import LanguageModel

Mode = Literal["add", "clamp", "scale", "ablate"]
Unit = Literal["raw", "max"]


@dataclasses.dataclass(frozen=True)
class Edit:
    """One change of one latent, on every token."""

    latent: int
    value: float = 0.0
    mode: Mode = "add"
    """`add`: h + value, active or not (the reference's h_bias); `clamp`: value instead of h; `scale`: h * value;
    `ablate`: 0 instead of h, whatever the value."""
    unit: Unit = "raw"
    """`raw`: the value as `sae.encode` gives it; `max`: multiples of the largest value seen on the corpus."""

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise SaeError(f"mode {self.mode!r} is not known; expected {', '.join(get_args(Mode))}")
        if not math.isfinite(self.value):
            raise SaeError(f"latent {self.latent}: value {self.value} is not a finite number")
        if self.mode == "scale" and self.unit == "max":
            raise SaeError(f"latent {self.latent}: scale takes a factor, such as {self.latent}=2, without max")


def parse(text: str, mode: Mode = "add") -> Edit:
    """Read `LATENT=VALUE` or `LATENT=VALUEmax`; `ablate` takes `LATENT` alone as well.

    Raises:
        RecipeError: the text has another form.
        SaeError: the parts do not fit each other.
    """
    latent, equals, value = (part.strip() for part in text.partition("="))
    unit: Unit = "max" if value.endswith("max") else "raw"
    number = value.removesuffix("max")
    try:
        if not (latent.isdecimal() and (equals or mode == "ablate")):
            raise ValueError
        if not equals:
            return Edit(int(latent), mode=mode)
        return Edit(int(latent), float(number or "1" if unit == "max" else number), mode, unit)
    except ValueError:
        raise RecipeError(
            f"steer {text}: expected LATENT=VALUE, such as 896=20 or 896=2max (twice its largest observed value)"
        ) from None


def spell(edit: Edit) -> str:
    """The edit as `parse` reads it, without its mode: `896=2max`, or `896` for an ablation."""
    return str(edit.latent) if edit.mode == "ablate" else f"{edit.latent}={edit.value:g}{'max' * (edit.unit == 'max')}"


class Steering:
    """Edits of an SAE's latents as a hook: `x [T, d_out]` raw activations to edited ones.

    Args:
        sae: whose output the hook is put at; a transcoder's input is handed over with `x`, or by the hooks of `hooks`.
        edits: applied in order; several to one latent build on each other.
        maxima: `[n]` largest observed value of every latent, for edits with unit `max`.
        error_preserving: True: x + (decode(edited) - decode(codes)), so that no edit changes nothing, to the bit.
            False: decode(edited), the reference system's way: the SAE's error is gone from the model.

    Raises:
        SaeError: a latent that does not exist, or unit `max` where no maximum is known.
    """

    def __init__(
        self,
        sae: Autoencoder,
        edits: Iterable[Edit],
        maxima: Tensor | None = None,
        *,
        error_preserving: bool = True,
    ) -> None:
        self.sae, self.error_preserving = sae, error_preserving
        self.edits = tuple(in_raw_units(sae, edit, maxima) for edit in edits)
        self._latents = list(dict.fromkeys(edit.latent for edit in self.edits))
        rows = [sae.direction(latent) for latent in self._latents]
        self._directions = torch.stack(rows) if rows else sae.W_dec.new_zeros(0, sae.config.width_out)
        self._reads = not error_preserving or any(edit.mode != "add" for edit in self.edits)
        self._source: Tensor | None = None

    @torch.no_grad()
    def __call__(self, x: Tensor, known: Codes | None = None, source: Tensor | None = None) -> Tensor:
        """Edited activations `[T, d_out]`, in the type of x.

        Args:
            known: the codes, where the caller has them already.
            source: `[T, d]` what a transcoder reads. None: what its hook has seen last in this pass.

        Raises:
            SaeError: a transcoder has read nothing.
        """
        raw = x.to(self._directions.device, torch.float32)
        read, sae = raw, self.sae
        if sae.config.transcodes:
            read, self._source = self._source if source is None else source, None
            if read is None:
                raise SaeError("a transcoder is steered by what it reads: give source, or put all of hooks() in place")
            read = read.to(raw)
        codes = None
        if self._reads:  # an addition has no use for them, and is exact without
            codes = sae.encode(read) if known is None else known
        start = raw if self.error_preserving or codes is None else sae.decode(codes, read)
        edited = (start + self._difference(raw, codes)).to(x)
        fit = within(raw, sae.config.output.norm_threshold)
        if sae.config.transcodes:
            fit &= within(read, sae.config.norm_threshold)
        return torch.where(fit.to(x.device)[:, None], edited, x)

    def hooks(self, place: str | None = None) -> "dict[str, Hook]":
        """The functions for `model.hooks`.

        Args:
            place: where the SAE belongs, if its own configuration does not say.

        Raises:
            SaeError: no hook point is known.
            ModelError: a transcoder's input comes after its output.
        """
        config = self.sae.config
        output = place or config.output.hook_point
        if not output or (config.transcodes and not config.hook_point):
            raise SaeError("this SAE does not say where it belongs; give steer(..., hook_point='20.resid_post')")
        if not config.transcodes:
            return {output: self}
        require_before(config.hook_point, output)
        return {config.hook_point: self._watch, output: self}

    def _watch(self, x: Tensor) -> None:
        self._source = x

    @torch.no_grad()
    def difference(self, x: Tensor) -> Tensor:
        """`[T, d]` float32: decode(edited codes) - decode(codes), raw units, whatever the norm of x."""
        raw = x.to(self._directions.device, torch.float32)
        return self._difference(raw, self.sae.encode(raw) if self._reads else None)

    def _difference(self, raw: Tensor, codes: Codes | None) -> Tensor:
        before = raw.new_zeros(len(raw), len(self._latents))
        if codes is not None:
            for column, latent in enumerate(self._latents):
                before[:, column] = (codes.values * (codes.indices == latent)).sum(1)
        after = before.clone()
        for edit in self.edits:
            column = self._latents.index(edit.latent)
            after[:, column] = _applied(edit, after[:, column])
        return (after - before) @ self._directions * spread(self.sae, raw)


def in_raw_units(sae: Autoencoder, edit: Edit, maxima: Tensor | None) -> Edit:
    """The edit with its value in raw units, its latent checked.

    Raises:
        SaeError: as `Steering`.
    """
    sae.direction(edit.latent)  # names the range if there is no such latent
    if edit.unit == "raw" or edit.mode == "ablate":
        return edit
    if maxima is None:
        raise SaeError(f"latent {edit.latent}: no largest value is known; give a raw value, or load the SAE of a run")
    largest = float(maxima[edit.latent])
    if not largest > 0:
        raise SaeError(f"latent {edit.latent} never fires on this corpus, so it has no max; give a raw value")
    return dataclasses.replace(edit, value=edit.value * largest, unit="raw")


def spread(sae: Autoencoder, x: Tensor) -> Tensor:
    """`[T, 1]` float32: what `sae.direction` is further multiplied by at each of `x [T, d]`.

    The vector's own standard deviation with an autoencoder's `layer` normalisation, else 1.
    """
    std = None if sae.config.transcodes else sae.normalise(x).std
    return x.new_ones(len(x), 1, dtype=torch.float32) if std is None else std


def within(x: Tensor, norm_threshold: float | None) -> Tensor:
    """`[T]` bool: which activations `x [T, d]` are of the kind the SAE was trained on."""
    norm = x.float().norm(dim=1)
    return torch.ones_like(norm, dtype=torch.bool) if norm_threshold is None else norm <= norm_threshold


def _applied(edit: Edit, value: Tensor) -> Tensor:
    match edit.mode:
        case "add":
            return value + edit.value
        case "clamp":
            return torch.full_like(value, edit.value)
        case "scale":
            return value * edit.value
        case "ablate":
            return torch.zeros_like(value)


def load_sae(path: str | Path) -> Autoencoder:
    """Load an SAE from a run folder (`runs/demo`), or from the folder of the SAE itself.

    Raises:
        SaeError: its files are missing or damaged.
        RecipeError: the run's recipe is.
    """
    path = Path(path)
    return files.load(Run.open(path).sae_folder if (path / "recipe.toml").is_file() else path)


def observed_maxima(run: Run, n: int) -> Tensor | None:
    """`[n]` float32: largest value of every latent on the corpus, 0 for one that never fired."""
    file = run.folder("examples") / "latents.parquet"
    if not file.is_file():
        return None
    table = pq.read_table(file, columns=["latent", "max"])
    maxima = torch.zeros(n)
    maxima[torch.tensor(table["latent"].to_numpy())] = torch.tensor(table["max"].to_numpy())
    return maxima


@contextlib.contextmanager
def steer(
    model: "LanguageModel",
    sae: Autoencoder,
    edits: Mapping[int, float] | Sequence[Edit],
    mode: Mode = "add",
    *,
    maxima: Tensor | None = None,
    error_preserving: bool = True,
    hook_point: str | None = None,
) -> Iterator[Steering]:
    """Steer `model` within a `with` block: everything it computes there has the latents edited.

    Args:
        edits: `{latent: value}` in raw units, all in `mode`, or a list of `Edit`.
        maxima: as `Steering`.
        hook_point: where the SAE belongs, if its own configuration does not say.

    Raises:
        SaeError: as `Steering`, or the hook point is not known.
        ModelError: the hook point does not exist, or a transcoder's input comes after its output.
    """
    if isinstance(edits, Mapping):
        edits = [Edit(latent, value, mode) for latent, value in edits.items()]
    steering = Steering(sae, edits, maxima, error_preserving=error_preserving)
    with model.hooks(steering.hooks(hook_point)):
        yield steering
