"""The side of the peers in `formats.py`, run by a Python that has them: sae-lens, eai-sparsify, dictionary-learning.

`read FOLDER`: load every SAE below with its library's own loader, write what it computes into `theirs.safetensors`.
`write FOLDER`: save SAEs of every kind with the libraries' own code, each with its `theirs.safetensors`.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

D, N, K = 48, 256, 8


def _saelens(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder)
    return sae.encode(x), sae(x)


def _sparsify(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    from sparsify.sparse_coder import SparseCoder

    return _of_coder(SparseCoder.load_from_disk(folder), x)


def _of_coder(coder: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    out = coder(x)
    codes = torch.zeros(len(x), coder.num_latents).scatter_add(1, out.latent_indices, out.latent_acts)
    return codes, out.sae_out


def _dictionary_learning(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    from dictionary_learning.utils import load_dictionary

    sae, _ = load_dictionary(str(folder), "cpu")
    return sae.encode(x), sae(x)


READERS: dict[str, Callable[[Path, Tensor], tuple[Tensor, Tensor]]] = {
    "saelens": _saelens,
    "sparsify": _sparsify,
    "dictionary_learning": _dictionary_learning,
}


@torch.no_grad()
def read(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        x = load_file(path / "ours.safetensors")["x"]
        codes, x_hat = READERS[path.name.partition("-")[0]](path / "sae", x)
        save_file({"codes": codes.contiguous(), "x_hat": x_hat.contiguous()}, path / "theirs.safetensors")


def _random(module: nn.Module, seed: int) -> None:
    """Weights with nothing at zero, and decoder rows of all norms."""
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "threshold" in name:
            parameter.data = 0.3 + torch.rand(parameter.shape, generator=draw)
        else:
            parameter.data = parameter.data + 0.3 * torch.randn(parameter.shape, generator=draw) / parameter.dim()


def _saelens_written() -> Iterator[tuple[str, Callable[[Path], object]]]:
    from sae_lens import registry

    shared = {"d_in": D, "d_sae": N}
    kinds = [
        ("standard", {}),
        ("standard", {"normalize_activations": "layer_norm"}),
        ("topk", {"k": K}),
        ("topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
        ("topk", {"k": K, "apply_b_dec_to_input": False, "normalize_activations": "expected_average_only_in"}),
        ("topk", {"k": K, "normalize_activations": "layer_norm"}),
        ("abstopk", {"k": K}),
        ("jumprelu", {}),
        ("jumprelu", {"apply_b_dec_to_input": False}),
        ("transcoder", {"d_out": D // 2, "apply_b_dec_to_input": False}),
        ("skip_transcoder", {"d_out": D // 2, "apply_b_dec_to_input": False}),
        ("jumprelu_transcoder", {"d_out": D // 2, "apply_b_dec_to_input": False}),
        ("jumprelu_skip_transcoder", {"d_out": D // 2, "apply_b_dec_to_input": False}),
    ]
    for number, (architecture, extra) in enumerate(kinds):
        sae_class, config_class = registry.get_sae_class(architecture)
        sae = sae_class(config_class(**shared, **extra))
        name = "-".join(
            ["saelens", architecture, *(f"{key}={value}" for key, value in extra.items() if key != "d_out")]
        )
        _random(sae, number)
        yield name, sae.save_model


def _sparsify_written() -> Iterator[tuple[str, Callable[[Path], object]]]:
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    for number, extra in enumerate(
        ({}, {"transcode": True}, {"transcode": True, "skip_connection": True}, {"skip_connection": True})
    ):
        coder = SparseCoder(D, SparseCoderConfig(num_latents=N, k=K, **extra), dtype=torch.float32)
        _random(coder, number)
        yield "-".join(["sparsify", *extra]), coder.save_to_disk


def _dictionary_learning_written() -> Iterator[tuple[str, Callable[[Path], object]]]:
    from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, JumpReluAutoEncoder
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    saes = [
        AutoEncoder(D, N),
        AutoEncoderNew(D, N),
        JumpReluAutoEncoder(D, N),
        AutoEncoderTopK(D, N, K),
        BatchTopKSAE(D, N, K),
        MatryoshkaBatchTopKSAE(D, N, K, [N // 4, N // 4, N // 2]),
    ]
    for number, sae in enumerate(saes):
        _random(sae, number)
        if isinstance(sae, BatchTopKSAE | MatryoshkaBatchTopKSAE):
            sae.threshold.fill_(1.5)
        kind = type(sae).__name__

        def save(path: Path, sae: nn.Module = sae, kind: str = kind) -> None:
            path.mkdir(parents=True)
            torch.save(sae.state_dict(), path / "ae.pt")
            trainer = {"dict_class": kind, "layer": 3, "lm_name": "an/lm", "activation_dim": D, "dict_size": N}
            trainer |= {"k": K} if hasattr(sae, "k") else {}
            (path / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))

        yield f"dictionary_learning-{kind}", save


@torch.no_grad()
def write(folder: Path) -> None:
    x = load_file(folder / "x.safetensors")["x"]
    for written in (_saelens_written, _sparsify_written, _dictionary_learning_written):
        for name, save in written():
            path = folder / name
            save(path / "sae")
            codes, x_hat = READERS[name.partition("-")[0]](path / "sae", x)
            save_file({"codes": codes.contiguous(), "x_hat": x_hat.contiguous()}, path / "theirs.safetensors")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    {"read": read, "write": write}[sys.argv[1]](Path(sys.argv[2]))
