"""Small random models for tests: a Llama over single bytes, and SAEs that fit it."""

import string

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor

from monosem.lm.config import ModelConfig
from monosem.lm.llama import Llama
from monosem.lm.tokenizer import Tokenizer
from monosem.sae.autoencoder import Autoencoder, Normalisation, SaeConfig
from monosem.sae.initialise import dataset_statistics

D, N, K = 32, 48, 4
HOOK_POINT = "1.resid_post"


def random_llama(seed: int = 0, dtype: torch.dtype = torch.float32) -> Llama:
    """Three layers of width 32 with random weights; its tokens are printable ASCII and one special token."""
    letters = [chr(code) for code in range(0x21, 0x7F)] + ["\u0120"]  # the byte-level spelling of a space
    vocab = {letter: index for index, letter in enumerate(letters)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab | {"<end>": len(vocab)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    config = ModelConfig(
        d_model=D,
        n_layers=3,
        n_heads=4,
        n_kv_heads=2,
        d_ff=48,
        vocab_size=len(vocab) + 4,  # three rows that no token uses
        context_length=128,
        head_dim=8,
    )
    model = Llama(config, Tokenizer(backend, {"<end>": len(vocab)}, eos_ids=[len(vocab)]))
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        size = 1.0 if "norm" in name else 0.4
        weight.data = (torch.randn(weight.shape, generator=generator) * size).to(dtype)
    return model


def random_sentences(count: int, seed: int = 0) -> list[list[int]]:
    """Token ids of sentences of 1 to 12 letters."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 13, (count,), generator=generator).tolist()
    letters = len(string.printable.strip())
    return [torch.randint(0, letters, (length,), generator=generator).tolist() for length in lengths]


def random_activations(rows: int = 200, seed: int = 0) -> Tensor:
    """[rows, D] float32, off centre and of unequal spread."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, D, generator=generator) * torch.linspace(0.5, 3, D) + torch.linspace(-1, 2, D)


def random_sae(
    normalisation: Normalisation = "dataset",
    seed: int = 0,
    hook_point: str = HOOK_POINT,
    norm_threshold: float | None = None,
) -> Autoencoder:
    """An untrained SAE; its encoder differs from its decoder, and no bias is zero."""
    generator = torch.Generator().manual_seed(seed)
    x = random_activations()
    config = SaeConfig(D, N, K, normalisation=normalisation, hook_point=hook_point, norm_threshold=norm_threshold)
    statistics = dataset_statistics(x.mean(0), x.var(0)) if normalisation == "dataset" else None
    sae = Autoencoder(config, generator, statistics, b_pre=0.1 * torch.randn(D, generator=generator))
    with torch.no_grad():
        sae.W_enc.add_(0.05 * torch.randn(N, D, generator=generator))
        sae.b_enc.copy_(0.1 * torch.randn(N, generator=generator))
    return sae


SOURCE, OUTPUT = "1.resid_mid.norm", "1.mlp_out"


def random_transcoder(*, skip: bool = True, norm_threshold: float | None = None) -> Autoencoder:
    """An untrained transcoder between two places of the model; no bias is zero, nor is the skip."""
    generator = torch.Generator().manual_seed(4)
    x = random_activations()
    statistics = dataset_statistics(x.mean(0), x.var(0))
    config = SaeConfig(
        D, N, K, hook_point=SOURCE, d_out=D, target_hook_point=OUTPUT, skip=skip, target_norm_threshold=norm_threshold
    )
    sae = Autoencoder(config, generator, statistics, target=statistics._replace(scale=2.0))
    with torch.no_grad():
        for parameter in (sae.b_enc, sae.b_dec, sae.W_skip):
            if parameter is not None:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return sae
