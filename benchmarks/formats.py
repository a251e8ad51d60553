"""SAEs exchanged with the libraries themselves: what each computes from the other's files, on the same vectors.

    python benchmarks/formats.py --peers PYTHON

PYTHON has sae-lens, eai-sparsify and dictionary-learning. Printed are the largest differences of codes and of
reconstructions, over the largest value of each; exit code 1 where one exceeds the tolerance.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple, get_args

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

from monosem.errors import SaeError
from monosem.sae import formats
from monosem.sae.autoencoder import Autoencoder, Normalisation, SaeConfig
from monosem.sae.initialise import Statistics
from monosem.sae.sparsity import SPARSITIES

D, N, K, ROWS = 48, 256, 8, 512
TOLERANCE = 2e-6
LAYER_TOLERANCE = 4e-6
"""For `layer`: what both add to the standard deviation differs by 1e-5, over vectors whose own is about 20 here."""
PEERS = Path(__file__).with_name("formats_peers.py")


class Outcome(NamedTuple):
    """How far one SAE's two computations lie apart."""

    name: str
    codes: float
    x_hat: float
    layer: bool

    @property
    def same(self) -> bool:
        return max(self.codes, self.x_hat) <= (LAYER_TOLERANCE if self.layer else TOLERANCE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, help="a Python with the three libraries")
    python = parser.parse_args().peers
    with tempfile.TemporaryDirectory() as temporary:
        written, refused = exported(python, Path(temporary) / "ours")
        outcomes = {
            "monosem writes, they read": written,
            "they write, monosem reads": imported(python, Path(temporary)),
        }
        layers = [(size, _layer(python, Path(temporary) / f"layer-{size}", size)) for size in (10.0, 1.0, 0.1, 0.01)]
    show(outcomes, refused, layers)
    sys.exit(not all(outcome.same for found in outcomes.values() for outcome in found))


def exported(python: str, folder: Path) -> tuple[list[Outcome], list[str]]:
    """Every SAE of ours that each library can read; and what was refused."""
    refused = []
    for name, sae in saes():
        for format_ in get_args(formats.WriteFormat):
            path = folder / f"{format_}-{name}"
            try:
                formats.write(sae, path / "sae", format_)
            except SaeError as error:
                refused.append(f"{format_}-{name}: {error}")
                continue
            _keep(sae, path, activations())
    _peers(python, "read", folder)
    return [_compared(path) for path in sorted(folder.iterdir())], refused


def imported(python: str, temporary: Path) -> list[Outcome]:
    """Every SAE of theirs."""
    folder = temporary / "theirs"
    folder.mkdir()
    x = activations()
    save_file({"x": x}, folder / "x.safetensors")
    _peers(python, "write", folder)
    outcomes = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        _keep(formats.read(path / "sae", k=None if "top" in path.name.lower() else K).sae, path, x)
        outcomes.append(_compared(path, folded=True))
    return outcomes


def _layer(python: str, folder: Path, size: float) -> Outcome:
    """`layer` normalisation in SAELens, for vectors of a standard deviation."""
    sae, path = _sae("relu", "layer"), folder / "saelens-relu"
    formats.write(sae, path / "sae", "saelens")
    x = activations()
    _keep(sae, path, x / x.std(1).median() * size)
    _peers(python, "read", folder)
    return _compared(path)


def _keep(sae: Autoencoder, path: Path, x: Tensor) -> None:
    x_hat, codes = sae(x)
    path.mkdir(parents=True, exist_ok=True)
    save_file({"x": x, "codes": codes.dense(), "x_hat": x_hat.contiguous()}, path / "ours.safetensors")


def _peers(python: str, verb: str, folder: Path) -> None:
    done = subprocess.run([python, str(PEERS), verb, str(folder)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def _compared(path: Path, *, folded: bool = False) -> Outcome:
    """`folded`: our codes may be as many times as large as theirs as a decoder row's norm that went into them."""
    ours, theirs = (load_file(path / f"{whose}.safetensors") for whose in ("ours", "theirs"))
    codes, other = ours["codes"], theirs["codes"]
    if folded:
        sizes = other.abs().sum(0)
        other = other * torch.where(sizes > 0, codes.abs().sum(0) / sizes, 1)
    far = [float((a - b).abs().max() / b.abs().max()) for a, b in ((codes, other), (ours["x_hat"], theirs["x_hat"]))]
    return Outcome(path.name, far[0], far[1], "layer" in path.name)


def activations() -> Tensor:
    """[ROWS, D] far from the origin, of some tens in size."""
    draw = torch.Generator().manual_seed(7)
    return 20 * torch.randn(ROWS, D, generator=draw) + 15 * torch.randn(D, generator=draw)


def saes() -> list[tuple[str, Autoencoder]]:
    """Ours, of every sparsity and normalisation, and transcoders."""
    made = [
        (f"{sparsity}-{normalisation}", _sae(sparsity, normalisation))
        for sparsity in SPARSITIES
        for normalisation in get_args(Normalisation)
    ]
    made += [("batchtopk-matryoshka", _sae("batchtopk", "dataset", prefixes=(N // 4, N // 2)))]
    for sparsity in ("topk", "relu", "jumprelu", "batchtopk"):
        for skip in (False, True):
            name = f"{sparsity}-transcoder" + "-skip" * skip
            made.append((name, _sae(sparsity, "dataset", d_out=D, target_hook_point="3.mlp_out", skip=skip)))
    return made


def _sae(sparsity: str, normalisation: Normalisation, **extra: object) -> Autoencoder:
    draw = torch.Generator().manual_seed(len(sparsity))
    config = SaeConfig(D, N, K, sparsity, normalisation, "hf:an/lm", "3.resid_post", **extra)  # type: ignore[arg-type]
    of_store = Statistics(15 * torch.randn(D, generator=draw), 0.043)
    of_target = Statistics(7 * torch.randn(D, generator=draw), 0.21)
    sae = Autoencoder(
        config,
        draw,
        of_store if normalisation == "dataset" else None,
        0.3 * torch.randn(D, generator=draw),
        0.8,
        target=of_target if config.normalised_target else None,
    )
    with torch.no_grad():
        sae.b_enc += 0.2 * torch.randn(N, generator=draw)
        for vector in (sae.b_dec, sae.W_skip):
            if vector is not None:
                vector += 0.1 * torch.randn(vector.shape, generator=draw)
        if sae.threshold is not None:
            sae.threshold.fill_(0.9)
    return sae


def show(outcomes: dict[str, list[Outcome]], refused: list[str], layers: list[tuple[float, Outcome]]) -> None:
    console = Console(highlight=False, width=150)
    for title, found in outcomes.items():
        table = Table("SAE", "codes", "reconstructions", "", title=title)
        for one in found:
            table.add_row(one.name, f"{one.codes:.1e}", f"{one.x_hat:.1e}", "" if one.same else "DIFFERS")
        console.print(table)
    console.print(f"refused: {len(refused)}", *refused, sep="\n  ", soft_wrap=True)
    table = Table("std of vectors", "codes", "reconstructions", title="`layer` in SAELens: 1e-5 for 1e-6")
    for size, one in layers:
        table.add_row(f"{size:g}", f"{one.codes:.1e}", f"{one.x_hat:.1e}")
    console.print(table)


if __name__ == "__main__":
    main()
