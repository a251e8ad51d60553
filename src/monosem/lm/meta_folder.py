"""Meta's own checkpoints: `params.json`, `consolidated.NN.pth` in one or many shards, `tokenizer.model`.

`original/` inside a Hugging Face repository is such a folder. Shards are mapped, not read; a tensor is joined from its
parts, and its rotary pairs put into two halves, when it is asked for. Nothing but plain tensors is unpickled.
"""

import pickle
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.errors import ModelError
from monosem.lm.config import ModelConfig
from monosem.lm.meta_params import read_params
from monosem.lm.tiktoken_file import read_tiktoken
from monosem.lm.weights import Checkpoint, rotary_halves

_EMBED, _HEAD, _QUERY = "tok_embeddings.weight", "output.weight", "layers.0.attention.wq.weight"


class _Place(NamedTuple):
    """What a tensor is called in Hugging Face's Llama, and how its parts lie in the shards."""

    name: str
    axis: int | None
    """Parts are laid side by side along this axis; None: every shard holds the whole."""


_PLACES = {
    "tok_embeddings": _Place("model.embed_tokens", 0),
    "norm": _Place("model.norm", None),
    "output": _Place("lm_head", 0),
    "attention_norm": _Place("input_layernorm", None),
    "attention.wq": _Place("self_attn.q_proj", 0),
    "attention.wk": _Place("self_attn.k_proj", 0),
    "attention.wv": _Place("self_attn.v_proj", 0),
    "attention.wo": _Place("self_attn.o_proj", 1),
    "ffn_norm": _Place("post_attention_layernorm", None),
    "feed_forward.w1": _Place("mlp.gate_proj", 0),
    "feed_forward.w3": _Place("mlp.up_proj", 0),
    "feed_forward.w2": _Place("mlp.down_proj", 1),
}
"""Column-parallel layers are cut between rows, row-parallel ones between columns (`llama_models`, llama3/model.py)."""


class _Shard(NamedTuple):
    path: Path
    tensors: dict[str, Tensor]
    """Mapped, not read yet."""


def read_meta(path: Path) -> Checkpoint:
    """Open a folder as Meta publishes it.

    Raises:
        ModelError: a file is missing, damaged or more than plain weights, the model is not a Llama as it is known here,
            or its tokenizer does not match the embedding.
    """
    tokenizer = read_tiktoken(path / "tokenizer.model")
    shards = [_open(shard) for shard in _shard_paths(path)]
    config = read_params(path / "params.json", tokenizer.vocab_size, tied=_is_tied(shards))
    _check_count(shards, config)
    folder = path.resolve()
    name = folder.parent.name if folder.name == "original" else folder.name
    return Checkpoint(name, config, tokenizer, _tensors(shards, config))


def _shard_paths(path: Path) -> list[Path]:
    """The shards, numbered from 00 without a gap."""
    found = sorted(path.glob("consolidated.*.pth"))
    expected = [path / f"consolidated.{number:02d}.pth" for number in range(max(len(found), 1))]
    for shard in expected:
        if shard not in found:
            raise ModelError(f"{shard}: missing; the folder needs every consolidated.*.pth of the model")
    return expected


def _open(path: Path) -> _Shard:
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path}: damaged, or not the archive that torch.save writes; {_MEND}")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:  # its text tells how to load the file all the same, which is no good advice
        raise ModelError(f"{path}: more than plain weights, and nothing of it was run; {_MEND}") from None
    except Exception as error:  # a damaged archive raises whatever its bytes happen to mean
        raise ModelError(f"{path}: damaged ({type(error).__name__}); {_MEND}") from None
    if not isinstance(tensors, dict) or not all(isinstance(each, Tensor) and each.numel() for each in tensors.values()):
        raise ModelError(f"{path}: not plain weights; expected a dictionary of tensors; {_MEND}")
    return _Shard(path, tensors)


_MEND = "download the publisher's file again"


def _is_tied(shards: Sequence[_Shard]) -> bool:
    """Whether the head is the embedding. `params.json` does not say: it is left out, the same storage, or a copy."""
    pairs = [(shard.tensors.get(_HEAD), shard.tensors.get(_EMBED)) for shard in shards]
    return all(
        head is None
        or (embed is not None and (head.shape, head.dtype) == (embed.shape, embed.dtype) and torch.equal(head, embed))
        for head, embed in pairs
    )


def _check_count(shards: Sequence[_Shard], config: ModelConfig) -> None:
    """A shard that is missing at the end leaves no gap in the numbers, but too few rows."""
    query = shards[0].tensors.get(_QUERY)
    if query is None or query.dim() != 2:
        raise ModelError(f"{shards[0].path}: tensor {_QUERY} is missing or no matrix; is this a Llama?")
    needed, rest = divmod(config.z_width, query.shape[0])
    if not rest and needed > len(shards):
        missing = shards[0].path.with_name(f"consolidated.{len(shards):02d}.pth")
        raise ModelError(f"{missing}: missing; the model is cut into {needed} shards")


def _tensors(shards: Sequence[_Shard], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    for name in shards[0].tensors:
        if name == "rope.freqs" or (name == _HEAD and config.tied):
            continue  # computed, or the embedding once more
        layer, place = _place(name)
        if place is None:
            yield name, shards[0].tensors[name]  # refused by its name
        else:
            named = (f"model.layers.{layer}." if layer else "") + f"{place.name}.weight"
            yield named, _weight(name, place, shards, config)  # no variable here keeps it when the next one is made


def _weight(name: str, place: _Place, shards: Sequence[_Shard], config: ModelConfig) -> Tensor:
    """One tensor of the model, as Hugging Face's Llama has it."""
    weight = _joined(name, _axis(name, place, shards[0], config), shards)
    heads = {"self_attn.q_proj": config.n_heads, "self_attn.k_proj": config.n_kv_heads}
    return rotary_halves(weight, heads[place.name]) if place.name in heads else weight


def _place(name: str) -> tuple[str | None, _Place | None]:
    found = re.fullmatch(r"(?:layers\.(\d+)\.)?(.+)\.weight", name)
    return (found[1], _PLACES.get(found[2])) if found else (None, None)


def _axis(name: str, place: _Place, shard: _Shard, config: ModelConfig) -> int | None:
    """Llama 3 splits the embedding by tokens; checkpoints of before it split its width, so its shape decides."""
    if name == _EMBED and shard.tensors[name].shape[-1:] != (config.d_model,):
        return 1
    return place.axis


def _joined(name: str, axis: int | None, shards: Sequence[_Shard]) -> Tensor:
    first = shards[0].tensors[name]
    for shard in shards[1:]:
        shape = shard.tensors[name].shape if name in shard.tensors else None
        if shape != first.shape:
            found = "missing" if shape is None else f"of shape {list(shape)}"
            raise ModelError(f"{shard.path}: tensor {name} is {found}, expected {list(first.shape)} as in other shards")
    if axis is None or len(shards) == 1:
        return first
    return torch.cat([shard.tensors[name] for shard in shards], dim=axis)
