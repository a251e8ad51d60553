"""The same random weights in Meta's own code, in transformers and here: logits agree, also beyond the first context."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from referee import ask
from small_models import LLAMA3_TOKENS, random_llama, small_config, write_meta
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from monosem.lm.checkpoint import load_model
from monosem.lm.packed import Packed
from monosem.lm.tiktoken_file import read_tiktoken


class Shape(NamedTuple):
    """A Llama 3 with fewer and narrower layers; the heads are as wide as the real ones."""

    config: dict[str, Any]
    factor: float
    tied: bool
    params: dict[str, Any]
    """How Meta's params.json gives the width of the MLP."""

    def build(self, original_context: int = 8192) -> LlamaForCausalLM:
        rope = {
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": self.factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": original_context,
        }
        config: LlamaConfig = small_config(
            vocab_size=LLAMA3_TOKENS,
            rope_parameters=rope,
            tie_word_embeddings=self.tied,
            max_position_embeddings=131_072,
            **self.config,
        )
        return random_llama(config, spread=0.05)


LLAMA_3_2 = Shape(
    config={
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 64,
    },
    factor=32.0,
    tied=True,
    params={"ffn_dim_multiplier": 1.5, "multiple_of": 32, "rope_scaling_factor": 32.0},
)
LLAMA_3_1 = Shape(
    config={
        "hidden_size": 512,
        "intermediate_size": 1792,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 128,
    },
    factor=8.0,
    tied=False,
    params={"ffn_dim_multiplier": 1.3, "multiple_of": 64},
)
SHAPES = pytest.mark.parametrize("shape", [LLAMA_3_1, LLAMA_3_2], ids=["3.1", "3.2"])


def sentences(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, LLAMA3_TOKENS, (length,), generator=generator).tolist() for length in lengths]


def of_meta(folder: Path, texts: Sequence[Sequence[int]], factor: float, original_context: int) -> Tensor:
    """Meta's logits, sentence after sentence."""
    job = {"model": str(folder), "sentences": texts, "factor": factor, "original_context": original_context}
    with np.load(ask("logits.py", job, folder) / "logits.npz") as found:
        return torch.from_numpy(np.concatenate([found[name] for name in found.files]))


@torch.no_grad()
def of_transformers(reference: LlamaForCausalLM, texts: Sequence[Sequence[int]]) -> Tensor:
    return torch.cat([reference(torch.tensor([list(ids)])).logits[0] for ids in texts])


def write_hugging_face(folder: Path, reference: LlamaForCausalLM, meta: Path) -> Path:
    reference.save_pretrained(folder, max_shard_size="1MB")
    read_tiktoken(meta / "tokenizer.model")._backend.save(str(folder / "tokenizer.json"))
    return folder


def differ(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())


@SHAPES
def test_equals_meta_and_transformers_far_beyond_a_small_context(shape: Shape, tmp_path: Path) -> None:
    reference = shape.build(original_context=64)
    meta = write_meta(tmp_path / "meta", reference, **shape.params)
    model = load_model(write_hugging_face(tmp_path / "folder", reference, meta), device="cpu")
    texts = sentences(7, 1, 640, 64, 65)
    ours = model.logits(Packed.pack(texts))
    assert differ(ours, of_transformers(reference, texts)) < 1e-4
    assert differ(ours, of_meta(meta, texts, shape.factor, original_context=64)) < 1e-4
    assert ours.std() > 0.5


@SHAPES
@pytest.mark.slow
def test_equals_meta_and_transformers_beyond_8192_tokens(shape: Shape, tmp_path: Path) -> None:
    reference = shape.build()
    meta = write_meta(tmp_path, reference, head="shared" if shape.tied else "own", **shape.params)
    texts = sentences(8192 + 128, 20)
    ours = load_model(meta, device="cpu").logits(Packed.pack(texts))
    assert differ(ours, of_meta(meta, texts, shape.factor, original_context=8192)) < 1e-4
    assert differ(ours, of_transformers(reference, texts)) < 1e-4


@SHAPES
def test_both_layouts_and_both_numbers_of_shards_give_the_same_bits(shape: Shape, tmp_path: Path) -> None:
    reference = shape.build()
    single = write_meta(tmp_path / "single", reference, **shape.params)
    folders = [
        write_hugging_face(tmp_path / "folder", reference, single),
        write_meta(tmp_path / "two", reference, shards=2, **shape.params),
        write_meta(
            tmp_path / "two shared", reference, shards=2, head="shared" if shape.tied else "own", **shape.params
        ),
    ]
    if not shape.tied:
        folders.append(write_meta(tmp_path / "older", reference, shards=2, embed_axis=1, **shape.params))
    packed = Packed.pack(sentences(300, 9))
    expected = load_model(single, device="cpu")
    for folder in folders:
        model = load_model(folder, device="cpu")
        assert model.config == expected.config
        assert torch.equal(model.logits(packed), expected.logits(packed))
