"""From files to a model that transformers runs, and to its tokenizer alone.

Hugging Face folders are transformers' own affair. A GGUF file is read by our header and dequantised tensor by tensor
(`gguf`); transformers' reader takes 35 seconds over a vocabulary of 262,144.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from monosem.errors import ModelError
from monosem.lm.huggingface import gguf
from monosem.lm.huggingface.attention import NAME, register
from monosem.lm.huggingface.bos import with_bos
from monosem.lm.huggingface.model import HuggingFaceModel
from monosem.lm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_model(path: Path, dtype: torch.dtype, device: str | None = None) -> HuggingFaceModel:
    """Load a Hugging Face folder or a GGUF file of any family whose hook points are found.

    Args:
        device: None: the GPU where there is one.

    Raises:
        ModelError: transformers is missing or does not know the model, a file is damaged, the tokenizer does not match
            the embedding, or the hook points are not found.
    """
    _require(path)
    register()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with _reading(path):
        model: Any = _from_gguf(path, dtype) if path.is_file() else _from_folder(path, dtype)
        model.to(device)
    tokenizer = load_tokenizer(path)
    rows = model.get_input_embeddings().weight.shape[0]
    if not 0 <= rows - tokenizer.vocab_size < 1000:
        raise ModelError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens but the embedding {rows} rows; they do not match"
        )
    return HuggingFaceModel(model, tokenizer, path.stem if path.is_file() else path.name)


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of the model at `path`, without its weights; raises as `load_model`."""
    if path.is_file():
        return gguf.tokenizer(path)
    _require(path)
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    with _reading(path):
        config = AutoConfig.from_pretrained(path).get_text_config()
        theirs: Any = AutoTokenizer.from_pretrained(path)
        ends = [config.eos_token_id, theirs.eos_token_id]
        with contextlib.suppress(OSError):  # a folder may lack generation_config.json
            ends.insert(0, GenerationConfig.from_pretrained(path).eos_token_id)
    if not theirs.is_fast:
        raise ModelError(f"{path}: its tokenizer is not one of the tokenizers library; a tokenizer.json is needed")
    eos = [token for end in ends if end is not None for token in (end if isinstance(end, list) else [end])]
    template = theirs.chat_template if isinstance(theirs.chat_template, str) else None
    if (path / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(path / "tokenizer.json", eos, template)
    else:
        backend = theirs.backend_tokenizer
        special = {token.content: index for index, token in backend.get_added_tokens_decoder().items() if token.special}
        tokenizer = Tokenizer(backend, special, eos, template, theirs.bos_token_id)
    return with_bos(_without_pictures(tokenizer, config.vocab_size), config.model_type)


def _without_pictures(tokenizer: Tokenizer, rows: int) -> Tokenizer:
    """The tokenizer without special tokens beyond the embedding's `rows`.

    A text-only model of a family that also sees pictures has their tokens in its tokenizer, but no row for them.
    """
    special = {token: index for token, index in tokenizer.special.items() if index < rows}
    beyond = len(tokenizer.special) - len(special)
    if not beyond:
        return tokenizer
    fewer = Tokenizer(tokenizer._backend, special, tokenizer.eos_ids, tokenizer.chat_template, tokenizer.bos_id)
    fewer.vocab_size = tokenizer.vocab_size - beyond
    return fewer


def _from_folder(path: Path, dtype: torch.dtype) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=NAME)


def _from_gguf(path: Path, dtype: torch.dtype) -> "PreTrainedModel":
    return gguf.model(path, dtype, NAME)


def _require(path: Path) -> None:
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise ModelError(f'{path}: only Llama runs without transformers; pip install "monosem[hf]"') from None


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever transformers finds wrong with a model becomes one line; its progress bars are off."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # of transformers, safetensors, tokenizers or the system
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path}: transformers cannot load it ({reason})") from error
    finally:
        if shown:
            logging.enable_progress_bar()
