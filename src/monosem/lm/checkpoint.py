"""The one way from files to a `Llama` in memory.

A reader for each format hands over a `Checkpoint`; the model is laid out empty and filled tensor by tensor, so that
the peak is its weights and one tensor.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from monosem.errors import ModelError
from monosem.lm.folder import read_folder
from monosem.lm.gguf_file import read_gguf
from monosem.lm.llama import Llama
from monosem.lm.meta_folder import read_meta
from monosem.lm.tokenizer import Tokenizer
from monosem.lm.weights import Checkpoint, fill

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(path: Path, dtype: str = "float32", device: str | None = None) -> Llama:
    """Load a model from a GGUF file, a Hugging Face folder of safetensors, or a folder as Meta publishes it.

    `device` None: the GPU where there is one.

    Raises:
        ModelError: a file is missing, its format or architecture is not known, a tensor is missing or has the wrong
            shape, or the tokenizer does not match the embedding.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is not known; known: {', '.join(DTYPES)}")
    checkpoint = _reader(path)(path)
    _check_tokenizer(path, checkpoint)
    with torch.device("meta"):
        model = Llama(checkpoint.config, checkpoint.tokenizer, checkpoint.name).to(DTYPES[dtype])
    model.to_empty(device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    fill(model, checkpoint.tensors, str(path))
    return model


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of the model at `path`, without its weights; raises as `load_model`."""
    return _reader(path)(path).tokenizer


def _reader(path: Path) -> Callable[[Path], Checkpoint]:
    """The function that reads the format found at `path`."""
    if path.is_file() and path.suffix == ".gguf":
        return read_gguf
    if (path / "config.json").is_file():
        return read_folder
    if (path / "params.json").is_file():
        return read_meta
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder; give a .gguf file or a model's folder")
    raise ModelError(
        f"{path}: not a model; expected a .gguf file, or a folder with config.json and *.safetensors (Hugging Face)"
        " or with params.json and consolidated.*.pth (Meta)"
    )


def _check_tokenizer(path: Path, checkpoint: Checkpoint) -> None:
    rows, tokens = checkpoint.config.vocab_size, checkpoint.tokenizer.vocab_size
    # Embeddings are padded to a round number of rows, by less than a thousand.
    if not 0 <= rows - tokens < 1000:
        raise ModelError(f"{path}: the tokenizer has {tokens} tokens but the embedding {rows} rows; they do not match")
